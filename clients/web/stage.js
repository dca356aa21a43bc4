// The picture and the mask over it: two canvases of the frame's size, fitted alike by the style sheet.
import {el} from "./dom.js";
import {countLabels} from "./tv3s.js";

export class Stage {
    #picture; #cover; #corner; #palette = new Uint32Array(256); #shown = new Uint8Array(256).fill(1); #colours = [];
    mask = null; // what is drawn: {width, height, labels, counts}
    onmask = null;

    constructor(root, name) {
        this.#picture = el("canvas", {className: "picture", ariaHidden: "true"});
        this.#cover = el("canvas", {className: "mask"});
        this.#cover.setAttribute("role", "img");
        this.#cover.ariaLabel = `${name}: no mask yet`;
        this.#corner = el("span", {className: "corner"});
        root.prepend(this.#picture, this.#cover);
        root.append(this.#corner);
        this.name = name;
    }

    setClasses(classes) {
        this.#colours = classes;
        this.#paint();
    }

    setShown(id, on) {
        this.#shown[id] = on;
        this.#paint();
    }

    setOpacity(opacity) { this.#cover.style.opacity = opacity; }
    toggle() { this.#cover.hidden = !this.#cover.hidden; }
    say(text) { this.#corner.textContent = text; }

    clear() {
        for (const canvas of [this.#picture, this.#cover])
            canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
        this.mask = null;
        this.say("");
    }

    // Anything that drawImage takes, or null for a dark picture of that size.
    showPicture(source, width, height) {
        const to = fitted(this.#picture, width, height);
        if (source)
            to.drawImage(source, 0, 0, width, height);
        else
            to.clearRect(0, 0, width, height);
    }

    showMask(mask) {
        mask.counts ??= countLabels(mask.labels);
        this.mask = mask;
        this.#draw();
        this.onmask?.(mask);
    }

    #paint() {
        this.#palette.fill(0);
        for (const {id, color} of this.#colours) {
            const rgb = parseInt(color.slice(1), 16), bytes = [rgb >> 16, rgb >> 8 & 255, rgb & 255, 255];
            if (this.#shown[id])
                this.#palette[id] = new Uint32Array(new Uint8Array(bytes).buffer)[0];
        }
        if (this.mask)
            this.#draw();
    }

    #draw() {
        const {width, height, labels, counts} = this.mask;
        const to = fitted(this.#cover, width, height), image = to.createImageData(width, height);
        const pixels = new Uint32Array(image.data.buffer), palette = this.#palette;
        for (let i = 0; i < labels.length; i++)
            pixels[i] = palette[labels[i]];
        to.putImageData(image, 0, 0);
        this.#cover.ariaLabel = `${this.name}: ${this.#words(counts, labels.length)}`;
    }

    // The three largest classes, for those who do not see the picture.
    #words(counts, total) {
        return this.#colours.map(({id, name}) => [counts[id], name]).filter(([n]) => n > 0)
            .sort((a, b) => b[0] - a[0]).slice(0, 3)
            .map(([n, name]) => `${name} ${Math.round(100 * n / total)} %`).join(", ");
    }
}

function fitted(canvas, width, height) {
    if (canvas.width !== width || canvas.height !== height)
        Object.assign(canvas, {width, height});
    return canvas.getContext("2d");
}
