// The JavaScript client of tv3sd: uploads, their masks, and live streams. No dependencies.
//
//   import {Client} from "./tv3s.js";
//   const client = new Client("http://127.0.0.1:8080"); // or (url, {key: "tv3s_..."})
//   const job = await client.upload(file, {format: "png"}, {progress: (sent, total) => ...});
//   client.watch(job.id, (job) => console.log(job.frames.done), (job) => console.log(job.state));
//   const {width, height, labels} = await client.mask(job, 0);
//   const stream = client.openStream("cam-7", {drop: "oldest"});
//   stream.addEventListener("mask", ({detail}) => draw(detail.labels, detail.width, detail.height));
//   stream.addEventListener("open", () => stream.send(jpegBytes));

import {decodeMask} from "./mask.js";
import {Stream} from "./stream.js";

export {CODEC, KIND, decodeAnswer, encodeFrame} from "./message.js";
export {PacketEncoder} from "./encoder.js";
export {countLabels, decodeMask} from "./mask.js";
export {Stream} from "./stream.js";

// A problem object of the server (RFC 9457) as an Error; its message is a sentence.
export class Problem extends Error {
    constructor({type = "", title = "", status = 0, detail = ""} = {}) {
        super(sentence(detail && !detail.includes(title) ? `${title}: ${detail}` : detail || title));
        Object.assign(this, {name: "Problem", type, title, status, detail});
    }
}

function sentence(text) {
    text = text.trim() || "Something went wrong";
    return text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

const WATCH_AGAIN = 1000; // milliseconds
const UNREACHABLE = {type: "unreachable", title: "The server cannot be reached"};

async function problemOf(response) {
    try {
        return new Problem(await response.json());
    } catch {
        return new Problem({status: response.status, title: `The server answered ${response.status}`});
    }
}

export class Client {
    #base;
    key; // an API key, or null

    constructor(base = location.origin, {key = null} = {}) {
        this.#base = new URL(base);
        this.key = key;
    }

    get #headers() { return this.key ? {Authorization: `Bearer ${this.key}`} : {}; }

    url(path) { return new URL(path, this.#base).href; }

    // ---- plain HTTP

    async request(method, path, options = {}) {
        let response;
        try {
            response = await fetch(this.url(path), {method, ...options, headers: {...this.#headers, ...options.headers}});
        } catch (error) {
            throw options.signal?.aborted ? error : new Problem(UNREACHABLE);
        }
        if (!response.ok)
            throw await problemOf(response);
        return response;
    }

    async json(path) { return (await this.request("GET", path)).json(); }

    server() { return this.json("/v1/server"); }
    async models() { return (await this.json("/v1/models")).models; }
    async streams() { return (await this.json("/v1/streams")).streams; }
    stream(id) { return this.json(`/v1/streams/${id}`); }
    async metrics() { return parseMetrics(await (await this.request("GET", "/metrics")).text()); }
    async ready() { await this.request("GET", "/readyz"); }

    // ---- videos

    async videos() { return (await this.json("/v1/videos")).videos; }
    video(id) { return this.json(`/v1/videos/${id}`); }
    async removeVideo(id) { await this.request("DELETE", `/v1/videos/${id}`); }

    // The job. params: model, mode, format, resize, webhook (the URL that the server tells of the
    // end). fetch reports no progress of what it sends.
    upload(file, params = {}, {progress = null, signal = null} = {}) {
        return new Promise((resolve, reject) => {
            const request = new XMLHttpRequest();
            request.open("POST", this.url("/v1/videos" + query(params)));
            request.setRequestHeader("Content-Type", "application/octet-stream");
            for (const [name, value] of Object.entries(this.#headers))
                request.setRequestHeader(name, value);
            request.responseType = "json";
            request.upload.onprogress = (event) => progress?.(event.loaded, event.total);
            request.onload = () => request.status === 202 ? resolve(request.response)
                : reject(new Problem(request.response ?? {status: request.status}));
            request.onerror = () => reject(new Problem(UNREACHABLE));
            request.onabort = () => reject(signal.reason);
            signal?.addEventListener("abort", () => request.abort());
            request.send(file);
        });
    }

    // Calls progress(job) as the job goes on and ended(job) once; job.error says why it failed, job.warning what of
    // the video is damaged or missing, null where nothing is. failed(problem): the server refuses, since the job was
    // deleted or is another's. Gives back how to stop watching.
    // (An EventSource could not send the key.) A connection that is lost is made again.
    watch(id, progress, ended, failed = () => {}) {
        const stop = new AbortController();
        this.#follow(id, stop.signal, progress, ended, failed);
        return () => stop.abort();
    }

    async #follow(id, signal, progress, ended, failed) {
        while (!signal.aborted) {
            const events = this.#events(id, signal);
            try {
                for (let event; (event = await nextOf(events)) && !signal.aborted;) {
                    if (event instanceof Problem)
                        return failed(event);
                    if (event.name === "end")
                        return ended(event.data);
                    progress(event.data);
                }
            } finally {
                events.return();
            }
            await new Promise((resolve) => setTimeout(resolve, WATCH_AGAIN));
        }
    }

    async *#events(id, signal) {
        yield* eventsOf((await this.request("GET", `/v1/videos/${id}/events`, {signal})).body);
    }

    // One frame's mask: {width, height, labels, time}, time in seconds.
    async mask(job, n, {signal = null} = {}) {
        const response = await this.request("GET", `/v1/videos/${job.id}/masks/${n}`, {signal});
        const [width, height] = job.size ?? [0, 0];
        const bytes = new Uint8Array(await response.arrayBuffer());
        const mask = await decodeMask(job.format, bytes, {width, height});
        return {...mask, time: Number(response.headers.get("X-Tv3s-Time"))};
    }

    // ---- live streams

    openStream(id, params) { return new Stream(this, id, params); }

    // A stream without a connection yet; its description.
    async createStream(id, params = {}) {
        return (await this.request("PUT", `/v1/streams/${id}${query(params)}`)).json();
    }

    async removeStream(id) { await this.request("DELETE", `/v1/streams/${id}`); }
    async resetStream(id) { await this.request("POST", `/v1/streams/${id}/reset`); }

    // The hidden state as a safetensors file in an ArrayBuffer, and back, into a new stream where there is none.
    async saveState(id) { return (await this.request("GET", `/v1/streams/${id}/state`)).arrayBuffer(); }
    async restoreState(id, state) {
        await this.request("PUT", `/v1/streams/${id}`);
        await this.request("PUT", `/v1/streams/${id}/state`, {body: state});
    }

    // What a WebSocket is opened with. A browser lets a page send no header there, so the key is a subprotocol.
    get protocols() { return this.key ? ["tv3s.v1", `tv3s.key.${this.key}`] : ["tv3s.v1"]; }

    // The WebSocket is on a port of its own, or where the server says.
    async streamUrl(id, params) {
        const {websocket} = await this.server();
        const path = `/v1/streams/${id}/ws${query(params)}`;
        if (websocket.url)
            return websocket.url.replace(/\/+$/, "") + path;
        const url = new URL(path, this.#base);
        url.protocol = this.#base.protocol === "https:" ? "wss:" : "ws:";
        url.port = websocket.port;
        return url.href;
    }
}

// The events of a text/event-stream, {name, data}, data as an object.
async function* eventsOf(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    try {
        for (let piece; !(piece = await reader.read()).done;) {
            text += piece.value;
            for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
                const fields = new Map(text.slice(0, end).split("\n").map((line) => line.split(/: (.*)/s)));
                if (fields.has("data"))
                    yield {name: fields.get("event"), data: JSON.parse(fields.get("data"))};
            }
        }
    } finally {
        reader.cancel().catch(() => {});
    }
}

// The next; the Problem where the server refuses; undefined where the connection has ended.
async function nextOf(events) {
    try {
        return (await events.next()).value;
    } catch (error) {
        return error instanceof Problem && error.status >= 400 && error.status < 500 ? error : undefined;
    }
}

function query(params) {
    const given = Object.entries(params).filter(([, value]) => value !== undefined && value !== null && value !== "");
    return given.length ? "?" + new URLSearchParams(given) : "";
}

// Prometheus text as a map from name, labels included, to number.
function parseMetrics(text) {
    const values = new Map();
    for (const line of text.split("\n")) {
        const space = line.lastIndexOf(" ");
        if (space > 0 && line[0] !== "#")
            values.set(line.slice(0, space), Number(line.slice(space + 1)));
    }
    return values;
}
