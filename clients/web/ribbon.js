// The classes over time: each column is a frame, cut in proportion to its classes. It lies under the
// slider, fills as masks come in, and so shows how far the work is and where the picture changes.
import {sharp} from "./dom.js";

export class Ribbon {
    #canvas; #classes = []; #frames = 0; #counts = [];

    constructor(canvas) {
        this.#canvas = canvas;
        new ResizeObserver(() => this.#draw()).observe(canvas);
    }

    open(classes, frames) {
        this.#classes = classes;
        this.#counts = [];
        this.resize(frames);
    }

    resize(frames) {
        if (frames === this.#frames && this.#counts.length)
            return;
        this.#frames = frames;
        this.#draw();
    }

    set(n, counts) {
        if (!this.#counts[n]) {
            this.#counts[n] = counts;
            this.#column(sharp(this.#canvas), n);
        }
    }

    // About as many frames, evenly spaced, as it has room for.
    samples() {
        const step = Math.max(1, Math.ceil(this.#frames / 300));
        return Array.from({length: Math.ceil(this.#frames / step)}, (_, i) => i * step).filter((n) => !this.#counts[n]);
    }

    #draw() {
        const to = sharp(this.#canvas);
        to.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
        this.#counts.forEach((_, n) => this.#column(to, n));
    }

    // A column reaches to the next frame that is known, up to the step of the samples.
    #column(to, n) {
        const {width, height} = this.#canvas, counts = this.#counts[n];
        const step = Math.max(1, Math.ceil(this.#frames / 300));
        let end = n + 1;
        while (end < n + step && end < this.#frames && !this.#counts[end])
            end++;
        const left = Math.round(n / this.#frames * width), right = Math.round(end / this.#frames * width);
        const total = counts.reduce((a, b) => a + b, 0);
        let y = 0;
        for (const {id, color} of this.#classes) {
            const part = counts[id] / total * height;
            to.fillStyle = color;
            to.fillRect(left, y, Math.max(1, right - left), part + 0.5);
            y += part;
        }
    }
}
