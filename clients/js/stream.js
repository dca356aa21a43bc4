// A live stream: one WebSocket that is opened again when it is lost.
//
// The server keeps the stream's hidden state under its ID for a while, so a connection that comes
// back goes on where the last one was: the server's hello tells the last frame that is in the state.
// Of the frames that were in flight, those in the state lost their masks, reason `unanswered`; the
// others are reported as dropped, reason `lost`, or sent again where `resend` is set, but for packets
// of a codec: those have to begin anew with a key frame. With `resend`, frames that were answered are
// kept until the server says that they are stored: a server that takes over from one that crashed goes
// on from an earlier state, and gets them again, without masks (proto/PROTOCOL.md, Several servers).
//
// Events (CustomEvent, see `detail`):
//   open        the server's hello
//   mask        an answer, with width, height, labels, and ms since its frame was sent
//   dropped     {seq, reason}, one for each frame
//   failed      {seq, problem}
//   restarted   {seq}: the size changed, the state began anew
//   reset       the state is zero from the next frame on
//   stats       the server's counters
//   lost        {seconds, words}: the connection broke and is tried again after so long
//   closed      {reason, words}: the end. reason: end, takeover, idle, deleted, conflict, refused,
//               protocol. words is empty where nothing went wrong

import {KIND, decodeAnswer, encodeFrame} from "./message.js";
import {decodeMask} from "./mask.js";

const FIRST_DELAY = 0.25, LAST_DELAY = 8; // seconds between attempts
const KEPT_BYTES = 64 << 20;              // of answered frames that may have to be sent again
const FLAGS_AT = 7, SILENT = 2;           // in a frame's header
const ENDS = {
    end: "",
    takeover: "Another connection has taken this stream.",
    idle: "The stream was idle for too long and has ended.",
    deleted: "The stream was deleted.",
};

export class Stream extends EventTarget {
    #client; #id; #params; #socket = null; #timer = 0; #delay = FIRST_DELAY; #reading = Promise.resolve();
    #credit = 0; #bye = null; #opened = false; #ended = false; #next = 0;
    #resend; #flying = new Map(); // seq -> {at: when it was sent, message: to send again or null, again: it had its answer}
    #unsent = []; // of these, the numbers of those that wait for credit, after a loss
    #stores = false; #kept = new Map(); #keptBytes = 0; // seq -> message: answered, not stored yet
    #refusal = null; // the problem that came in place of hello

    // params: model, mode, format, resize, drop, credit, takeover; resend: after a loss. Connects at once.
    constructor(client, id, {resend = false, ...params} = {}) {
        super();
        this.#client = client;
        this.#id = id;
        this.#resend = resend;
        this.#params = {format: "rle", ...params};
        this.#connect();
    }

    get id() { return this.#id; }
    get ended() { return this.#ended; }
    get open() { return this.#credit > 0 && this.#socket?.readyState === WebSocket.OPEN; }
    get inFlight() { return this.#flying.size; }
    get credit() { return this.#credit; }
    get free() { return this.open ? this.#credit - this.#flying.size : 0; } // below 0: the drop policy's
    get waiting() { return this.#socket?.bufferedAmount ?? 0; } // bytes not sent yet

    // The frame's number. What is beyond the credit is the caller's to hold back or to let drop.
    send(payload, about = {}) {
        if (!this.open)
            throw new Error("the stream is not connected");
        const seq = this.#next++, message = encodeFrame(payload, {...about, seq});
        const again = this.#resend && about.kind !== KIND.packet;
        this.#flying.set(seq, {at: performance.now(), message: again ? message : null});
        if (this.#unsent.length > 0)
            this.#unsent.push(seq);
        else
            this.#socket.send(message);
        return seq;
    }

    reset() { this.#tell({type: "reset"}); }
    stats() { this.#tell({type: "stats"}); }

    // No more frames; the ones in flight are answered, then comes `closed`.
    end() {
        if (this.open)
            this.#tell({type: "end"});
        else
            this.close();
    }

    close() {
        if (this.#ended)
            return;
        this.#socket?.close(1000);
        this.#finish("end", "");
    }

    #tell(message) {
        if (this.open)
            this.#socket.send(JSON.stringify(message));
    }

    #emit(type, detail) { this.dispatchEvent(new CustomEvent(type, {detail})); }

    // ---- connecting

    async #connect() {
        let url;
        try {
            url = await this.#client.streamUrl(this.#id, this.#params);
        } catch (error) {
            return this.#retry(error.message);
        }
        if (this.#ended)
            return;
        const socket = this.#socket = new WebSocket(url, this.#client.protocols);
        socket.binaryType = "arraybuffer";
        this.#bye = this.#refusal = null;
        let greeted = false;
        socket.addEventListener("message", ({data}) => {
            if (socket !== this.#socket)
                return;
            if (typeof data !== "string")
                return this.#answer(data);
            const message = JSON.parse(data);
            greeted ||= message.type === "hello";
            if (greeted || message.type !== "error")
                this.#control(message);
            else
                this.#refusal = message.problem;
        });
        socket.addEventListener("close", (event) => {
            if (socket === this.#socket)
                this.#closed(event, greeted);
        });
    }

    async #closed(event, greeted) {
        this.#socket = null;
        this.#credit = 0;
        await this.#reading; // answers that came before the end
        if (this.#ended)
            return;
        if (this.#bye in ENDS)
            return this.#finish(this.#bye, ENDS[this.#bye]);
        if (event.code >= 1002 && event.code <= 1009 && event.code !== 1005 && event.code !== 1006)
            return this.#finish("protocol", `The server closed the connection: ${event.reason || event.code}.`);
        if (greeted)
            return this.#retry(this.#bye === "drain" ? "The server is shutting down." : "The connection was lost.");
        if (!this.#refusal)
            await this.#explain();
        else if (this.#refusal.status >= 500 || this.#refusal.type === "/problems/elsewhere")
            this.#retry("Another server has this stream.");
        else
            this.#finish("refused", this.#refusal.detail ?? this.#refusal.title);
    }

    // A browser does not tell why an upgrade was refused; the stream itself may.
    async #explain() {
        try {
            const there = await this.#client.stream(this.#id);
            if (there.connected && !this.#opened)
                return this.#finish("conflict", "Another connection has this stream.");
            for (const name of ["model", "mode"])
                if (this.#params[name] && there[name] !== this.#params[name])
                    return this.#finish("refused", `The stream is there already, with the ${name} ${there[name]}.`);
            this.#retry("The server refused the connection.");
        } catch (error) {
            if (error.status >= 400 && error.status < 404)
                this.#finish("refused", error.message);
            else
                this.#retry(error.status === 404 ? "The WebSocket cannot be reached." : error.message);
        }
    }

    #retry(words) {
        if (this.#ended)
            return;
        if (!this.#resend)
            this.#lose();
        const seconds = this.#delay;
        this.#delay = Math.min(2 * seconds, LAST_DELAY);
        this.#timer = setTimeout(() => this.#connect(), 1000 * seconds);
        this.#emit("lost", {seconds, words});
    }

    #finish(reason, words) {
        if (this.#ended)
            return;
        this.#ended = true;
        clearTimeout(this.#timer);
        this.#lose();
        this.#emit("closed", {reason, words});
    }

    #lose() {
        for (const seq of this.#flying.keys())
            this.#drop(seq, "lost");
    }

    #drop(seq, reason) {
        if (this.#flying.delete(seq))
            this.#emit("dropped", {seq, reason});
    }

    // What is not in the server's state goes again, in order; what was answered already goes first.
    #again(last) {
        const again = [...this.#kept].filter(([seq]) => seq > last);
        for (const [seq, message] of again) {
            this.#kept.delete(seq);
            this.#keptBytes -= message.byteLength;
        }
        for (const [seq, {message, again: answered}] of this.#flying) {
            if (seq > last && message)
                continue;
            if (seq <= last)
                this.#keep(seq, message);
            if (answered)
                this.#flying.delete(seq);
            else
                this.#drop(seq, seq <= last ? "unanswered" : "lost");
        }
        this.#flying = new Map([...again.map(([seq, message]) => [seq, {at: 0, message, again: true}]), ...this.#flying]);
        this.#unsent = [...this.#flying.keys()];
        this.#sendUnsent();
    }

    #sendUnsent() {
        while (this.#unsent.length > 0 && this.#flying.size - this.#unsent.length < this.#credit)
            this.#socket.send(this.#flying.get(this.#unsent.shift()).message);
    }

    // An answered frame, until it is stored; the oldest go when they are too many.
    #keep(seq, message) {
        if (!this.#stores || !message)
            return;
        new Uint8Array(message)[FLAGS_AT] |= SILENT;
        this.#kept.set(seq, message);
        this.#keptBytes += message.byteLength;
        for (const [oldest] of this.#kept) {
            if (this.#keptBytes <= KEPT_BYTES)
                break;
            this.#forget(oldest);
        }
    }

    #forget(stored) {
        for (const [seq, message] of this.#kept) {
            if (seq > stored)
                break;
            this.#kept.delete(seq);
            this.#keptBytes -= message.byteLength;
        }
    }

    // ---- what the server says

    #control(message) {
        switch (message.type) {
        case "hello":
            this.#credit = message.credit;
            this.#stores = Number.isInteger(message.stored);
            if (this.#stores)
                this.#forget(message.stored);
            this.#again(message.last_seq);
            this.#next = Math.max(message.last_seq, ...this.#flying.keys()) + 1;
            this.#delay = FIRST_DELAY;
            this.#opened = true;
            this.#params.takeover = 1; // what comes back after a loss is ours, also where the loss is not noticed there
            this.#emit("open", message);
            break;
        case "credit": this.#credit = message.credit; break;
        case "stored": this.#forget(message.seq); break;
        case "dropped":
            if (message.reason === "drain" && this.#resend)
                break; // they go to the server that follows
            message.seq.forEach((seq) => this.#drop(seq, message.reason)); break;
        case "error":
            this.#flying.delete(message.seq);
            this.#emit("failed", message);
            break;
        case "bye": this.#bye = message.reason; break;
        default: this.#emit(message.type, message);
        }
    }

    // Credit is free at once, masks are decoded one after the other.
    #answer(buffer) {
        const answer = decodeAnswer(buffer), sent = this.#flying.get(answer.seq);
        const ms = performance.now() - sent?.at;
        this.#flying.delete(answer.seq);
        this.#keep(answer.seq, sent?.message);
        this.#sendUnsent();
        if (sent?.again)
            return; // it had its mask
        this.#reading = this.#reading.then(async () => {
            try {
                const mask = answer.format ? await decodeMask(answer.format, answer.data, answer) : {};
                this.#emit("mask", {...answer, ...mask, ms});
            } catch (error) {
                this.#emit("failed", {seq: answer.seq, problem: {title: error.message}});
            }
        });
    }
}
