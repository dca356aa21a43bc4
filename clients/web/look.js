// How a stage looks: opacity of the masks, and the legend, whose rows switch classes on and off.
//
// The shares that it shows are rounded so that they add up to exactly 100.0 %.
import {el} from "./dom.js";

const MANY = 32; // of more classes only those that were seen have a row

// Tenths of a percent of each class, by largest remainder: their sum is 1000.
export function tenths(counts, total) {
    const exact = Array.from(counts, (n) => total ? n * 1000 / total : 0);
    const whole = exact.map(Math.floor);
    const left = total ? 1000 - whole.reduce((a, b) => a + b, 0) : 0;
    const order = exact.map((x, i) => [x - whole[i], i]).sort((a, b) => b[0] - a[0]);
    for (let i = 0; i < left; i++)
        whole[order[i][1]]++;
    return whole;
}

export class Look {
    #list; #slider; #rows = []; #stage; #classes = [];

    constructor(root, stage) {
        this.#stage = stage;
        this.#slider = el("input", {type: "range", min: 0, max: 100, value: 55, step: 1, ariaLabel: "Opacity of the masks"});
        const shown = el("output", {className: "figure"}, "55 %");
        this.#slider.addEventListener("input", () => {
            shown.textContent = `${this.#slider.value} %`;
            stage.setOpacity(this.#slider.value / 100);
        });
        this.#list = el("ul", {className: "legend"});
        this.#list.setAttribute("aria-label", "Classes and their share of the pixels");
        root.append(el("label", {className: "slider"}, el("span", {}, "Masks"), this.#slider, shown), this.#list);
        stage.setOpacity(0.55);
        stage.onmask = (mask) => this.#update(mask);
    }

    setClasses(classes) {
        if (JSON.stringify(classes) === JSON.stringify(this.#classes))
            return;
        this.#classes = classes;
        this.#stage.setClasses(classes);
        this.#rows = classes.map((one) => this.#row(one));
        this.#list.replaceChildren(...this.#rows.map((row) => row.item));
    }

    #row({id, name, color}) {
        const swatch = el("span", {className: "swatch"}), meter = el("span", {className: "meter"});
        const share = el("span", {className: "share"}, "–");
        swatch.style.backgroundColor = meter.style.backgroundColor = color;
        const button = el("button", {ariaPressed: "true", title: "Show or hide this class"}, swatch,
            el("span", {className: "name"}, name), share, meter);
        button.addEventListener("click", () => {
            const on = button.ariaPressed !== "true";
            button.ariaPressed = String(on);
            this.#stage.setShown(id, on);
        });
        const item = el("li", {data: {absent: "true", label: id}}, button);
        item.hidden = this.#classes.length > MANY;
        return {item, share, meter};
    }

    #update({counts, labels}) {
        const shares = tenths(counts.subarray(0, this.#rows.length), labels.length);
        this.#rows.forEach(({item, share, meter}, i) => {
            const absent = counts[i] === 0;
            item.dataset.absent = absent;
            item.hidden &&= absent;
            share.textContent = absent ? "–" : `${(shares[i] / 10).toFixed(1)} %`;
            meter.style.transform = `scaleX(${shares[i] / 1000})`;
        });
    }
}
