// Rates and percentiles of what was measured lately.

// Events per second over the last `span` milliseconds.
export class Rate {
    #times = [];

    constructor(span = 2000) { this.span = span; }
    add(now = performance.now()) { this.#times.push(now); }

    value(now = performance.now()) {
        while (this.#times.length > 1 && this.#times[0] < now - this.span)
            this.#times.shift();
        const n = this.#times.length - 1, since = now - this.#times[0];
        return n > 0 && this.#times[n] > now - this.span ? 1000 * n / Math.max(since, 1) : 0;
    }
}

// The last `room` values.
export class Recent {
    #values = [];

    constructor(room = 500) { this.room = room; }
    get count() { return this.#values.length; }

    add(value) {
        this.#values.push(value);
        if (this.#values.length > this.room)
            this.#values.shift();
    }

    quantile(q) {
        const sorted = [...this.#values].sort((a, b) => a - b);
        return sorted[Math.min(sorted.length - 1, Math.ceil(q * sorted.length) - 1)];
    }

    mean() { return this.#values.reduce((a, b) => a + b, 0) / this.#values.length; }
}

export const msText = (ms) => ms === undefined || Number.isNaN(ms) ? "–" : `${ms < 9.95 ? ms.toFixed(1) : Math.round(ms)} ms`;
export const rateText = (rate) => rate === 0 ? "–" : rate < 9.95 ? rate.toFixed(1) : String(Math.round(rate));
