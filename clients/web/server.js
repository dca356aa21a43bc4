// The state of the server: what /metrics, the lists of streams and models, and /readyz say.
import {byId, bytesText, colour, el, sharp} from "./dom.js";
import {msText, rateText} from "./figures.js";

const INTERVAL = 2000, READY_EVERY = 5; // milliseconds; of so many looks one asks /readyz
const KEPT = 120; // points of the plot

const label = (name, key, value) => `${name}{${key}="${value}"}`;

// All frames that got a mask.
function framesOf(metrics) {
    let sum = 0;
    for (const kind of ["live", "upload", "single"])
        sum += metrics.get(`tv3sd_frames_total{kind="${kind}",outcome="ok"}`) ?? 0;
    return sum;
}

// The quantile of a Prometheus histogram in milliseconds, between its bounds.
function quantile(metrics, stage, q) {
    const bins = [];
    for (const [name, value] of metrics) {
        const found = name.match(/^tv3sd_stage_seconds_bucket\{stage="(\w+)",le="([^"]+)"\}$/);
        if (found?.[1] === stage)
            bins.push([found[2] === "+Inf" ? Infinity : Number(found[2]), value]);
    }
    const want = q * (bins.at(-1)?.[1] ?? 0);
    let below = 0, from = 0;
    for (const [bound, count] of bins) {
        if (count >= want && count > 0)
            return 1000 * (bound === Infinity ? from : from + (bound - from) * (want - below) / (count - below || 1));
        [from, below] = [bound, count];
    }
    return NaN;
}

export class ServerView {
    #client; #models; #before = null; #rates = []; #looks = 0; #ready = null; #parts;

    constructor(client, models, info) {
        this.#client = client;
        this.#models = models;
        const tiles = el("dl", {className: "tiles"}), plot = el("canvas", {ariaLabel: "Frames per second, the last four minutes"});
        plot.setAttribute("role", "img");
        const streams = el("div", {className: "scroll"});
        this.#parts = {tiles, plot, streams, values: new Map()};
        byId("board").append(
            section("Now", tiles), section("Frames per second, the last four minutes", el("div", {className: "plot"}, plot)),
            section("Live streams", streams), section("Models", this.#modelTable()),
            section("This server", el("p", {className: "none"}, `tv3sd ${info.version}. Uploads up to ${bytesText(info.limits.upload)}, ` +
                `images up to ${bytesText(info.limits.image)} and ${(info.limits.pixels / 1e6).toFixed(1)} megapixels. ` +
                `WebSocket ${info.websocket.url ?? `on port ${info.websocket.port}`}.`)));
        this.look();
    }

    #modelTable() {
        return el("div", {className: "scroll"}, table(["Name", "Architecture", "Classes", "Parameters", "Numbers"], this.#models.map((m) =>
            [el("code", {}, m.name), m.architecture, m.classes.length, `${(m.parameters / 1e6).toFixed(1)} million`, m.dtype]), [2, 3]));
    }

    // ---- every two seconds, while the page can be seen

    async look() {
        if (!document.hidden)
            await this.#look();
        setTimeout(() => this.look(), INTERVAL);
    }

    async #look() {
        try {
            if (this.#looks++ % READY_EVERY === 0 || this.#ready)
                this.#ready = await this.#client.ready().then(() => null, (error) => error);
            const metrics = await this.#metrics(), now = performance.now(), frames = framesOf(metrics);
            const rate = this.#before ? Math.max(0, 1000 * (frames - this.#before.frames) / (now - this.#before.now)) : 0;
            this.#before = {now, frames};
            this.#rates.push(rate);
            if (this.#rates.length > KEPT)
                this.#rates.shift();
            this.#pulse(this.#ready ? "wrong" : "ready", this.#ready?.message ?? "ready", rate);
            if (!byId("server").hidden)
                await this.#show(metrics, rate);
        } catch (error) {
            this.#before = null;
            this.#pulse("wrong", error.message, 0);
        }
    }

    // Nothing, for a key that may not ask.
    async #metrics() {
        try {
            return await this.#client.metrics();
        } catch (error) {
            if (error.status === 403)
                return new Map();
            throw error;
        }
    }

    #pulse(state, words, rate) {
        const pulse = byId("pulse"), text = pulse.querySelector(".text");
        pulse.dataset.state = state;
        if (text.textContent !== words) // it is read out when it changes
            text.textContent = words;
        pulse.querySelector(".rate").textContent = rate > 0 ? `${rateText(rate)} frames/s` : "";
    }

    async #show(metrics, rate) {
        const get = (name) => metrics.get(name) ?? 0, of = (name, key, value) => get(label(name, key, value));
        this.#tile("frames/s", rateText(rate));
        this.#tile("engine", this.#ready ? "not ready" : "ready");
        this.#tile("streams active", of("tv3sd_streams", "state", "active"));
        this.#tile("streams idle", of("tv3sd_streams", "state", "idle"));
        this.#tile("streams spilled", of("tv3sd_streams", "state", "spilled"));
        this.#tile("hidden state", bytesText(get("tv3sd_state_bytes")));
        this.#tile("uploads running", of("tv3sd_jobs", "state", "running"));
        this.#tile("uploads waiting", of("tv3sd_jobs", "state", "queued"));
        this.#tile("queues: decode, engine, encode", ["decode", "engine", "encode"].map((stage) => of("tv3sd_queue_depth", "stage", stage)).join(" · "));
        this.#tile("last batch full", `${Math.round(100 * get("tv3sd_batch_occupancy"))} %`);
        this.#tile("engine GFLOP/s", Math.round(get("tv3sd_engine_gflops")));
        this.#tile("engine p50", msText(quantile(metrics, "engine", 0.5)));
        this.#tile("engine p99", msText(quantile(metrics, "engine", 0.99)));
        this.#tile("queue p99", msText(quantile(metrics, "queue", 0.99)));
        this.#tile("open HTTP, WebSocket", ["http", "ws"].map((p) => of("tv3sd_connections", "protocol", p)).join(" · "));
        this.#tile("frames so far", framesOf(metrics).toLocaleString("en"));
        this.#plot();
        this.#streams(await this.#client.streams());
    }

    #tile(name, value) {
        const {tiles, values} = this.#parts;
        if (!values.has(name)) {
            values.set(name, el("dd"));
            tiles.append(el("div", {}, el("dt", {}, name), values.get(name)));
        }
        values.get(name).textContent = value;
    }

    #plot() {
        const {plot} = this.#parts, to = sharp(plot), {width, height} = plot, top = Math.max(1, ...this.#rates) * 1.15;
        const x = (i) => width - (this.#rates.length - 1 - i) * width / (KEPT - 1), y = (rate) => height - rate / top * height;
        to.clearRect(0, 0, width, height);
        to.beginPath();
        this.#rates.forEach((rate, i) => to.lineTo(x(i), y(rate)));
        to.strokeStyle = colour("--accent");
        to.lineWidth = 2 * devicePixelRatio;
        to.lineJoin = "round";
        to.stroke();
        to.lineTo(width, height);
        to.lineTo(x(0), height);
        to.globalAlpha = 0.12;
        to.fillStyle = to.strokeStyle;
        to.fill();
        to.globalAlpha = 1;
        to.fillStyle = colour("--soft");
        to.font = `${12 * devicePixelRatio}px sans-serif`;
        to.fillText(`${rateText(Math.max(...this.#rates))} at most`, 12 * devicePixelRatio, 20 * devicePixelRatio);
    }

    #streams(streams) {
        this.#parts.streams.replaceChildren(streams.length === 0 ? el("p", {className: "none"}, "None.") :
            table(["Stream", "Model", "Frame size", "Frames", "Last", "State", "Idle"], streams.slice(0, 100).map((s) =>
                [el("code", {}, s.id), s.model, s.size ? s.size.join(" × ") : "–", s.frames, s.last_seq < 0 ? "–" : s.last_seq,
                    bytesText(s.state_bytes) + (s.spilled ? ", spilled" : ""), s.connected ? "connected" : `${Math.round(s.idle)} s`]), [3, 4]));
    }
}

function section(title, content) {
    return el("section", {}, el("h2", {}, title), content);
}

function table(heads, rows, numbers) {
    const cell = (tag, i, content) => el(tag, {className: numbers.includes(i) ? "number" : ""}, content);
    return el("table", {}, el("thead", {}, el("tr", {}, ...heads.map((head, i) => cell("th", i, head)))),
        el("tbody", {}, ...rows.map((row) => el("tr", {}, ...row.map((value, i) => cell("td", i, value instanceof Node ? value : String(value)))))));
}
