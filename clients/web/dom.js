// The least of DOM, and the one place where errors are said in words.

export const byId = (id) => document.getElementById(id);

// el("p", {className: "none", ariaLabel: "x", data: {state: "ok"}}, "text", child, ...)
export function el(tag, props = {}, ...children) {
    const node = document.createElement(tag);
    const {data, ...plain} = props;
    Object.assign(node, plain);
    Object.assign(node.dataset, data);
    node.append(...children);
    return node;
}

// What goes wrong is shown until it is dismissed or something else is begun.
export function sayError(error) {
    const words = typeof error === "string" ? error : error.message || "Something went wrong.";
    const box = byId("notice");
    box.querySelector("p").textContent = words;
    box.hidden = false;
}

export function clearError() {
    byId("notice").hidden = true;
}

// Makes the canvas as many device pixels as it takes on the screen; gives back its 2D context.
export function sharp(canvas) {
    const scale = window.devicePixelRatio || 1, box = canvas.getBoundingClientRect();
    const width = Math.max(1, Math.round(box.width * scale)), height = Math.max(1, Math.round(box.height * scale));
    if (canvas.width !== width || canvas.height !== height)
        Object.assign(canvas, {width, height});
    return canvas.getContext("2d");
}

// A colour of the style sheet, for canvases.
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export function bytesText(n) {
    const unit = ["bytes", "KB", "MB", "GB", "TB"];
    let i = 0;
    for (; n >= 1000 && i < unit.length - 1; i++)
        n /= 1000;
    return `${i && n < 100 ? n.toFixed(1) : Math.round(n)} ${unit[i]}`;
}
