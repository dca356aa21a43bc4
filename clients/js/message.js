// The binary messages of the WebSocket, byte for byte as in proto/PROTOCOL.md. All little-endian.

export const KIND = {image: 1, rgb24: 2, nv12: 3, packet: 4};
export const CODEC = {h264: 1, hevc: 2, vp8: 3, vp9: 4, av1: 5};
const FORMATS = ["png", "raw", "rle", "coco_rle", "overlay", "labels"];
const FRAME_HEADER = 32, ANSWER_HEADER = 48;
const NO_TIME = -(2n ** 63n);

// A frame: payload is an ArrayBuffer or Uint8Array; pts is in microseconds, or null.
export function encodeFrame(payload, {seq, kind = KIND.image, codec = 0, key = false, silent = false,
                                      pts = null, width = 0, height = 0}) {
    const data = payload instanceof Uint8Array ? payload : new Uint8Array(payload);
    const message = new Uint8Array(FRAME_HEADER + data.length), head = new DataView(message.buffer);
    message.set([0x54, 0x56, 0x33, 0x46, 1, kind, codec, (key ? 1 : 0) | (silent ? 2 : 0)]);
    head.setBigInt64(8, BigInt(seq), true);
    head.setBigInt64(16, pts === null ? NO_TIME : BigInt(Math.round(pts)), true);
    head.setUint32(24, width, true);
    head.setUint32(28, height, true);
    message.set(data, FRAME_HEADER);
    return message.buffer;
}

// An answer; `data` is a view into the message. Throws RangeError where it is none.
export function decodeAnswer(buffer) {
    const head = new DataView(buffer);
    if (buffer.byteLength < ANSWER_HEADER || head.getUint32(0) !== 0x5456334d || head.getUint8(4) !== 1)
        throw new RangeError("The server sent what is no answer.");
    const pts = head.getBigInt64(16, true);
    return {
        format: FORMATS[head.getUint8(5)] ?? null, // null: no mask was asked for
        fresh: (head.getUint16(6, true) & 1) !== 0, // the state was zero before this frame
        seq: Number(head.getBigInt64(8, true)),
        pts: pts === NO_TIME ? null : Number(pts),
        width: head.getUint32(24, true),
        height: head.getUint32(28, true),
        us: {
            decode: head.getUint32(32, true),
            queue: head.getUint32(36, true),
            engine: head.getUint32(40, true),
            encode: head.getUint32(44, true),
        },
        data: new Uint8Array(buffer, ANSWER_HEADER),
    };
}
