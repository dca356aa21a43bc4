// A source of pictures for a stream: the camera, or a local video file that begins again at its end.

export class Capture {
    #video = document.createElement("video"); #url = null; #canvas = document.createElement("canvas"); #running = false;

    constructor() {
        Object.assign(this.#video, {muted: true, playsInline: true, loop: true});
    }

    // Throws an Error whose message is a sentence.
    async openCamera() {
        if (!navigator.mediaDevices?.getUserMedia)
            throw new Error("The browser gives its camera only to pages of localhost or HTTPS.");
        try {
            this.#video.srcObject = await navigator.mediaDevices.getUserMedia({video: {width: {ideal: 1280}}, audio: false});
        } catch (error) {
            throw new Error(error.name === "NotAllowedError" ? "The camera was not allowed."
                : error.name === "NotFoundError" ? "There is no camera." : `The camera does not start: ${error.message}.`);
        }
        await this.#start("The camera gives no pictures.");
    }

    async openFile(file) {
        this.#url = URL.createObjectURL(file);
        this.#video.src = this.#url;
        await this.#start(`The browser cannot play ${file.name}.`);
    }

    async #start(otherwise) {
        try {
            await this.#video.play();
        } catch {
            throw new Error(otherwise);
        }
        this.#running = true;
    }

    // Calls seen(time in seconds) for each new picture, until close.
    each(seen) {
        const next = () => this.#video.requestVideoFrameCallback((now, frame) => {
            if (!this.#running)
                return;
            next();
            seen(frame.mediaTime);
        });
        next();
    }

    // The picture as it is now, as a bitmap. lines: its height at most, 0 = any. Codecs take even sides alone.
    async take(lines, even) {
        const {videoWidth, videoHeight} = this.#video, unit = even ? 2 : 1;
        const scale = lines > 0 && lines < videoHeight ? lines / videoHeight : 1;
        const side = (length) => Math.max(32, unit * Math.round(length * scale / unit));
        const width = side(videoWidth), height = side(videoHeight);
        if (this.#canvas.width !== width || this.#canvas.height !== height)
            Object.assign(this.#canvas, {width, height});
        this.#canvas.getContext("2d", {alpha: false}).drawImage(this.#video, 0, 0, width, height);
        return createImageBitmap(this.#canvas);
    }

    // The picture that was taken last, as an image file.
    async file(type) {
        const blob = await new Promise((resolve) => this.#canvas.toBlob(resolve, type, 0.9));
        return blob.arrayBuffer();
    }

    close() {
        this.#running = false;
        this.#video.pause();
        this.#video.srcObject?.getTracks().forEach((track) => track.stop());
        this.#video.srcObject = null;
        this.#video.removeAttribute("src");
        if (this.#url)
            URL.revokeObjectURL(this.#url);
        this.#url = null;
    }
}
