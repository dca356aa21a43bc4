// The view of a live stream. Each mask is drawn over the very frame that it belongs to: frames wait
// here, by number, for their answers.
import {Capture} from "./capture.js";
import {byId, clearError, colour, el, sayError, sharp} from "./dom.js";
import {msText, rateText, Rate, Recent} from "./figures.js";
import {Look} from "./look.js";
import {Stage} from "./stage.js";
import {PacketEncoder} from "./tv3s.js";

const UNSENT_MAX = 8e6; // bytes in the socket; beyond it frames are held back, whatever the policy
const CODECS = {h264: "H.264", hevc: "HEVC", vp8: "VP8", vp9: "VP9", av1: "AV1"};
const REFRESH = 250; // milliseconds between looks at the measurements
const STAGES = [["decode", "#5aa9e6"], ["queue", "#f2b84b"], ["engine", "#3ecf9a"], ["encode", "#b48ef0"], ["way", "#8b97a2"]];
const STAGE_WORDS = {decode: "decode", queue: "queue", engine: "engine", encode: "encode", way: "browser and network"};

export class LiveView {
    #client; #models; #capture = null; #stream = null; #waiting = new Map(); #taking = false; #timer = 0;
    #encoder = null; #codec = "";
    #rate; #latency; #stages; #dropped; #skipped; #last = -1;

    constructor(client, models, id) {
        this.#client = client;
        this.#models = models;
        this.stage = new Stage(byId("live-stage"), "Masks of the stream");
        this.look = new Look(byId("live-look"), this.stage);
        this.look.setClasses(models[0].classes);
        byId("stream-id").value = id || newId();
        byId("stream-new").addEventListener("click", () => {
            byId("stream-id").value = newId();
            this.onid?.(this.id);
        });
        byId("stream-id").addEventListener("change", () => this.onid?.(this.id));
        byId("live-start").addEventListener("click", () => this.#capture ? this.stop() : this.start());
        byId("live-takeover").addEventListener("click", () => this.start({takeover: 1}));
        byId("live-reset").addEventListener("click", () => this.#stream?.reset());
        byId("source").addEventListener("change", () => this.#showSource());
        byId("live-file").addEventListener("change", () => this.#showSource());
        this.#showSource();
        this.#clearFigures();
        this.#offerCodecs();
    }

    async #offerCodecs() {
        byId("live-encoding").append(...(await PacketEncoder.supported()).map((value) => el("option", {value}, CODECS[value])));
    }

    get id() { return byId("stream-id").value; }
    get stream() { return this.#stream; }
    get #file() { return byId("live-file").files[0] ?? null; }
    get #fromFile() { return document.querySelector("input[name=source]:checked").value === "file"; }

    #showSource() {
        byId("live-file-button").hidden = !this.#fromFile;
        byId("live-file-name").textContent = this.#file?.name ?? "Choose a video";
    }

    #say(words) { byId("live-words").textContent = words; }

    // ---- start and stop

    async start(more = {}) {
        clearError();
        byId("live-takeover").hidden = true;
        if (!byId("stream-id").checkValidity() || !this.id)
            return sayError("A stream ID is 1 to 128 of A-Z a-z 0-9 . _ ~ -");
        if (!byId("live-credit").checkValidity())
            return sayError("From 1 to 64 frames may be in flight.");
        if (this.#fromFile && !this.#file)
            return sayError("Choose a video file first.");
        const capture = this.#capture = new Capture(), before = this.#stream;
        this.#leave();
        this.#running(true);
        try {
            await (this.#fromFile ? capture.openFile(this.#file) : capture.openCamera());
        } catch (error) {
            this.#halt();
            return sayError(error);
        }
        if (capture !== this.#capture)
            return capture.close();
        this.onid?.(this.id);
        this.#clearFigures();
        if (before?.ended === false && before.id === this.id)
            more = {...more, takeover: 1}; // from ourselves: it is still saying goodbye
        this.#connect(more);
        capture.each((time) => this.#frame(time));
        this.#timer = setInterval(() => this.#showFigures(), REFRESH);
    }

    // What is in flight is still answered; the stream and its memory stay on the server.
    stop() {
        this.#halt();
        if (this.#stream)
            this.#stream.end();
        else
            this.#say("Stopped.");
    }

    #halt() {
        this.#capture?.close();
        this.#capture = null;
        this.#closeEncoder();
        clearInterval(this.#timer);
        this.#running(false);
    }

    // Nothing that the stream still says is of interest.
    #leave() {
        this.#stream = null;
        for (const seq of [...this.#waiting.keys()])
            this.#forget(seq);
    }

    #running(on) {
        const start = byId("live-start");
        start.textContent = on ? "Stop" : "Start";
        start.classList.toggle("primary", !on);
        for (const id of ["stream-id", "stream-new", "live-model", "live-drop", "live-credit", "live-file"])
            byId(id).disabled = on;
        byId("live-settings").open = !on;
        for (const radio of document.querySelectorAll("input[name=source]"))
            radio.disabled = on;
        if (on)
            byId("live-empty").hidden = true;
        else
            byId("live-reset").disabled = true;
    }

    #connect(more) {
        const {id} = this, stream = this.#client.openStream(id, {
            model: byId("live-model").value, drop: byId("live-drop").value, credit: byId("live-credit").value, ...more});
        this.#stream = stream;
        this.#closeEncoder();
        this.#say("Connecting.");
        const on = (type, listener) => stream.addEventListener(type, ({detail}) => {
            if (stream === this.#stream)
                listener(detail);
        });
        on("open", (hello) => this.#opened(hello));
        on("mask", (answer) => this.#answered(answer));
        on("dropped", ({seq, reason}) => {
            this.#forget(seq);
            this.#dropped += reason !== "lost";
        });
        on("failed", ({seq, problem}) => {
            this.#forget(seq);
            this.#say(`Frame ${seq} failed: ${problem.detail ?? problem.title}.`);
        });
        on("reset", () => this.#say("The memory is empty from the next frame on."));
        on("restarted", ({seq}) => this.#say(`The size changed with frame ${seq}: the memory began anew.`));
        on("lost", ({seconds, words}) => this.#say(`${words} Trying again in ${seconds < 1 ? "a moment" : `${seconds} s`}.`));
        on("closed", (end) => this.#closed(end));
    }

    #opened(hello) {
        this.look.setClasses(hello.classes);
        byId("live-reset").disabled = this.#capture === null;
        this.#last = hello.last_seq;
        this.#say(hello.resumed && hello.last_seq >= 0 ? `Goes on after frame ${hello.last_seq}.`
            : "A new stream: the memory is empty.");
    }

    #closed({reason, words}) {
        this.#halt();
        this.#leave();
        this.#showFigures();
        byId("live-takeover").hidden = reason !== "conflict" && reason !== "takeover";
        if (words) {
            this.#say(words);
            sayError(words);
        } else {
            this.#say(this.#last >= 0 ? `Stopped after frame ${this.#last}. Start goes on from there.` : "Stopped.");
        }
    }

    // ---- frames

    // One picture is taken at a time, so that frames go out in the order in which they were shown.
    async #frame(time) {
        const stream = this.#stream, capture = this.#capture;
        if (!stream?.open || !capture)
            return;
        const full = byId("live-drop").value === "none" ? stream.free <= 0 : stream.waiting > UNSENT_MAX;
        if (this.#taking || full) {
            this.#skipped++;
            return;
        }
        this.#taking = true;
        try {
            const encoding = byId("live-encoding").value, codec = encoding in CODECS ? encoding : "";
            const bitmap = await capture.take(Number(byId("live-size").value), codec !== "");
            const file = codec ? null : await capture.file(encoding);
            const there = stream.open && stream === this.#stream && this.#capture === capture;
            const seq = !there ? null : codec ? await this.#encode(stream, codec, bitmap, time) : stream.send(file, {pts: 1e6 * time});
            if (seq !== null && stream === this.#stream)
                this.#waiting.set(seq, bitmap);
            else
                bitmap.close();
        } catch (error) {
            sayError(error);
        } finally {
            this.#taking = false;
        }
    }

    // Another stream, or another codec, begins with an encoder of its own.
    #encode(stream, codec, bitmap, time) {
        if (codec !== this.#codec || !this.#encoder) {
            this.#closeEncoder();
            this.#encoder = new PacketEncoder(stream, {codec, bitrate: 4 * bitmap.width * bitmap.height});
            this.#codec = codec;
        }
        return this.#encoder.send(bitmap, {pts: 1e6 * time});
    }

    #closeEncoder() {
        this.#encoder?.close();
        this.#encoder = null;
    }

    #forget(seq) {
        this.#waiting.get(seq)?.close();
        this.#waiting.delete(seq);
    }

    #answered(answer) {
        const picture = this.#waiting.get(answer.seq), {us} = answer;
        this.#last = answer.seq;
        if (picture)
            this.stage.showPicture(picture, answer.width, answer.height);
        this.stage.showMask(answer);
        this.stage.say(`frame ${answer.seq}`);
        this.#forget(answer.seq);
        this.#rate.add();
        this.#latency.add(answer.ms);
        const inside = {decode: us.decode / 1000, queue: us.queue / 1000, engine: us.engine / 1000, encode: us.encode / 1000};
        inside.way = Math.max(0, answer.ms - inside.decode - inside.queue - inside.engine - inside.encode);
        for (const [name] of STAGES)
            this.#stages[name].add(inside[name]);
    }

    // ---- measurements

    #clearFigures() {
        this.#rate = new Rate();
        this.#latency = new Recent();
        this.#stages = Object.fromEntries(STAGES.map(([name]) => [name, new Recent(100)]));
        this.#dropped = this.#skipped = 0;
        this.#showFigures();
    }

    #showFigures() {
        const some = this.#latency.count > 0;
        byId("live-fps").textContent = rateText(this.#rate.value());
        byId("live-p50").textContent = some ? msText(this.#latency.quantile(0.5)) : "–";
        byId("live-p99").textContent = some ? msText(this.#latency.quantile(0.99)) : "–";
        byId("live-flight").textContent = this.#stream?.open ? `${this.#stream.inFlight} of ${this.#stream.credit}` : "–";
        byId("live-dropped").textContent = this.#dropped;
        byId("live-skipped").textContent = this.#skipped;
        byId("live-seq").textContent = this.#last < 0 ? "–" : this.#last;
        this.#drawStages(some);
    }

    #drawStages(some) {
        const canvas = byId("live-stages"), to = sharp(canvas);
        to.fillStyle = colour("--well");
        to.fillRect(0, 0, canvas.width, canvas.height);
        if (!some)
            return;
        const means = STAGES.map(([name, tint]) => [name, tint, this.#stages[name].mean()]);
        const total = means.reduce((sum, [, , ms]) => sum + ms, 0) || 1;
        let x = 0;
        for (const [, tint, ms] of means) {
            to.fillStyle = tint;
            to.fillRect(x, 0, ms / total * canvas.width, canvas.height);
            x += ms / total * canvas.width;
        }
        byId("live-stages-words").textContent = means.filter(([, , ms]) => ms / total >= 0.03)
            .map(([name, , ms]) => `${STAGE_WORDS[name]} ${msText(ms)}`).join(" · ");
    }
}

// 10 characters that can be read out.
function newId() {
    const letters = "abcdefghjkmnpqrstuvwxyz23456789";
    return [...crypto.getRandomValues(new Uint8Array(10))].map((n) => letters[n % letters.length]).join("");
}
