// Masks as label arrays: {width, height, labels}, one byte a pixel, row by row (proto/MASKS.md).
//
// A browser's own PNG decoder gives colours, and two classes may have the same one; so the palette
// indices are read here: the chunks, the platform's inflate, and the five filters of PNG.

// `size` is {width, height}, which `raw` needs. Throws where the bytes are no such mask.
export async function decodeMask(format, bytes, size) {
    switch (format) {
    case "png":
    case "labels": return decodePng(bytes);
    case "raw": return decodeRaw(bytes, size);
    case "rle": return decodeRle(JSON.parse(new TextDecoder().decode(bytes)));
    default: throw new RangeError(`Masks of the format ${format} hold no labels to draw.`);
    }
}

// How often each of the 256 labels occurs.
export function countLabels(labels) {
    const counts = new Uint32Array(256);
    for (let i = 0; i < labels.length; i++)
        counts[labels[i]]++;
    return counts;
}

function decodeRaw(bytes, {width, height}) {
    if (bytes.length !== width * height)
        throw new RangeError("The mask has not the size of its frame.");
    return {width, height, labels: bytes};
}

function decodeRle({size: [height, width], runs}) {
    const labels = new Uint8Array(width * height);
    let at = 0;
    for (let i = 0; i + 1 < runs.length; i += 2) {
        const end = at + runs[i + 1];
        labels.fill(runs[i], at, end);
        at = end;
    }
    if (at !== labels.length)
        throw new RangeError("The runs do not fill the mask.");
    return {width, height, labels};
}

// ---- PNG: 8 bits, palette or gray, not interlaced

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];

function* chunks(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let at = 8; at + 12 <= bytes.length;) {
        const length = view.getUint32(at), name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
        if (length > bytes.length - at - 12)
            throw new RangeError("The PNG is cut short.");
        yield {name, data: bytes.subarray(at + 8, at + 8 + length)};
        at += 12 + length;
    }
}

async function inflate(parts) {
    const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function decodePng(bytes) {
    let width = 0, height = 0;
    const parts = [];
    if (!SIGNATURE.every((value, i) => bytes[i] === value))
        throw new RangeError("The mask is no PNG.");
    for (const {name, data} of chunks(bytes)) {
        if (name === "IHDR") {
            const head = new DataView(data.buffer, data.byteOffset, data.byteLength);
            width = head.getUint32(0);
            height = head.getUint32(4);
            const [depth, colour, , , interlace] = data.subarray(8);
            if (depth !== 8 || (colour !== 3 && colour !== 0) || interlace !== 0)
                throw new RangeError("The PNG holds no labels.");
        } else if (name === "IDAT") {
            parts.push(data);
        }
    }
    const lines = await inflate(parts);
    if (width === 0 || lines.length !== (width + 1) * height)
        throw new RangeError("The PNG has not the size that it says.");
    return {width, height, labels: unfilter(lines, width, height)};
}

function paeth(a, b, c) {
    const p = a + b - c, pa = Math.abs(p - a), pb = Math.abs(p - b), pc = Math.abs(p - c);
    return pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
}

// Each line is one byte, which names its filter, and `width` samples.
function unfilter(lines, width, height) {
    const out = new Uint8Array(width * height);
    let above = new Uint8Array(width);
    for (let y = 0; y < height; y++) {
        const filter = lines[y * (width + 1)];
        const line = lines.subarray(y * (width + 1) + 1, (y + 1) * (width + 1));
        const to = out.subarray(y * width, (y + 1) * width);
        if (filter === 0)
            to.set(line);
        else
            for (let x = 0; x < width; x++) {
                const a = x > 0 ? to[x - 1] : 0, b = above[x], c = x > 0 ? above[x - 1] : 0;
                const guess = filter === 1 ? a : filter === 2 ? b : filter === 3 ? (a + b) >> 1 : paeth(a, b, c);
                to[x] = line[x] + guess;
            }
        above = to;
    }
    return out;
}
