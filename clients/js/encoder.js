// Pictures into a stream as packets of a video codec, by the browser's own encoder (WebCodecs).
//
//   const encoder = new PacketEncoder(stream, {codec: "h264", bitrate: 2e6});
//   const seq = await encoder.send(picture, {pts: microseconds}); // null: it was not sent
//   encoder.close();
//
// A decoder begins with a key frame, and the server has a new one for every connection. So the first
// picture after each is encoded as one, and packets that were under way are thrown away.

import {CODEC, KIND} from "./message.js";

const NAMES = { // as WebCodecs calls them: profiles that all encoders have, levels that all sizes fit
    h264: "avc1.42E034",
    hevc: "hev1.1.6.L153.B0",
    vp8: "vp8",
    vp9: "vp09.00.51.08",
    av1: "av01.0.12M.08",
};
const KEY_EVERY = 250; // pictures

const settings = (codec, width, height, bitrate) => ({
    codec: NAMES[codec], width, height, bitrate, latencyMode: "realtime",
    ...(codec === "h264" && {avc: {format: "annexb"}}), ...(codec === "hevc" && {hevc: {format: "annexb"}})});

export class PacketEncoder {
    #stream; #codec; #bitrate; #encoder = null; #width = 0; #height = 0;
    #waiting = []; // of each picture in the encoder: what tells its sender, and what for it is
    #time = 0;     // of the last picture, for the encoder: microseconds that ascend, also where pts go back
    #decoder = 0;  // counts those that the server has had: packets are for the one of their time
    #since = KEY_EVERY; // pictures since the last key frame
    #anew = () => {
        this.#decoder++;
        this.#since = KEY_EVERY;
    };
    #failed = ({detail: {problem}}) => problem.type?.endsWith("/decoder-died") && this.#anew();

    // codec: one of CODEC's names, that `supported` lists; bitrate: bits a second.
    constructor(stream, {codec = "vp8", bitrate = 2e6} = {}) {
        this.#stream = stream;
        this.#codec = codec;
        this.#bitrate = bitrate;
        stream.addEventListener("open", this.#anew);
        stream.addEventListener("failed", this.#failed);
    }

    // The codecs that this browser encodes pictures of that size with.
    static async supported(width = 640, height = 480) {
        const found = [];
        for (const codec of Object.keys(globalThis.VideoEncoder ? NAMES : {}))
            if ((await VideoEncoder.isConfigSupported(settings(codec, width, height, 1e6))).supported)
                found.push(codec);
        return found;
    }

    // picture: an ImageBitmap, canvas, video or VideoFrame, which stays the caller's. The number of its frame, as soon
    // as it is sent; null where the connection went meanwhile, or the encoder left it out. Its sides must be even.
    send(picture, {pts = null, silent = false} = {}) {
        this.#time = Math.max(this.#time + 1, Math.round(1000 * performance.now()));
        const frame = new VideoFrame(picture, {timestamp: this.#time});
        try {
            this.#configure(frame.displayWidth, frame.displayHeight);
            const keyFrame = this.#since >= KEY_EVERY, decoder = this.#decoder;
            this.#since = keyFrame ? 1 : this.#since + 1;
            this.#encoder.encode(frame, {keyFrame});
            return new Promise((resolve, reject) => {
                const entry = {resolve, reject, silent, pts, decoder};
                this.#waiting.push(entry);
                this.#encoder.flush().then(() => this.#leaveOut(entry), () => {});
            });
        } finally {
            frame.close();
        }
    }

    close() {
        this.#stream.removeEventListener("open", this.#anew);
        this.#stream.removeEventListener("failed", this.#failed);
        if (this.#encoder && this.#encoder.state !== "closed")
            this.#encoder.close();
        this.#encoder = null;
        this.#waiting.splice(0).forEach(({resolve}) => resolve(null));
    }

    #configure(width, height) {
        if (this.#encoder && width === this.#width && height === this.#height)
            return;
        this.#encoder ??= new VideoEncoder({output: (chunk) => this.#sendOn(chunk), error: (error) => this.#fail(error)});
        this.#encoder.configure(settings(this.#codec, width, height, this.#bitrate));
        this.#width = width;
        this.#height = height;
        this.#since = KEY_EVERY;
    }

    #sendOn(chunk) {
        const {resolve, silent, pts, decoder} = this.#waiting.shift();
        if (!this.#stream.open || decoder !== this.#decoder)
            return resolve(null);
        const data = new Uint8Array(chunk.byteLength);
        chunk.copyTo(data);
        resolve(this.#stream.send(data, {kind: KIND.packet, codec: CODEC[this.#codec], key: chunk.type === "key", silent, pts}));
    }

    // Everything has come out, and there was nothing of this one.
    #leaveOut(entry) {
        if (this.#waiting[0] !== entry)
            return;
        this.#waiting.shift();
        entry.resolve(null);
    }

    #fail(error) {
        this.#encoder = null; // the next picture gets another
        this.#waiting.splice(0).forEach(({reject}) => reject(error));
    }
}
