// The masks of one uploaded video: fetched when they are wanted, kept while they fit.
import {countLabels} from "./tv3s.js";

const KEPT_BYTES = 128e6, AHEAD = 4;

export class Masks {
    #client; #job; #kept = new Map(); #bytes = 0; #coming = new Map(); #stop = new AbortController();
    times = []; // of the frames seen so far, in seconds
    onmask = null; // (n, mask): for the ribbon

    constructor(client, job) {
        this.#client = client;
        this.#job = job;
    }

    update(job) { this.#job = job; }
    has(n) { return this.#kept.has(n); }

    peek(n) {
        const mask = this.#kept.get(n);
        if (mask) { // used last, goes last
            this.#kept.delete(n);
            this.#kept.set(n, mask);
        }
        return mask;
    }

    async get(n) {
        const there = this.peek(n);
        if (there)
            return there;
        if (!this.#coming.has(n))
            this.#coming.set(n, this.#fetch(n).finally(() => this.#coming.delete(n)));
        return this.#coming.get(n);
    }

    // Those that will be wanted soon.
    prefetch(from, to) {
        for (let n = from; n < to && this.#coming.size < AHEAD; n++)
            if (!this.has(n))
                this.get(n).catch(() => {}); // who needs it will ask again, and hear of it
    }

    async #fetch(n) {
        const mask = await this.#client.mask(this.#job, n, {signal: this.#stop.signal});
        mask.counts = countLabels(mask.labels);
        this.times[n] = mask.time;
        this.#kept.set(n, mask);
        this.#bytes += mask.labels.length;
        for (const [old, {labels}] of this.#kept) {
            if (this.#bytes <= KEPT_BYTES)
                break;
            this.#kept.delete(old);
            this.#bytes -= labels.length;
        }
        this.onmask?.(n, mask);
        return mask;
    }

    close() { this.#stop.abort(); }
}
