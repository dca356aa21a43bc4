// A local video as the browser plays it, addressed by time. Frames that the browser cannot decode
// are no error: the masks are shown alone then.

const PRESENTED = 200; // ms a frame may take from `seeked` to the screen

export class Film {
    #video; #url; #jump = null;

    constructor(file) {
        this.#url = URL.createObjectURL(file);
        this.#video = document.createElement("video");
        Object.assign(this.#video, {muted: true, playsInline: true, preload: "auto", src: this.#url});
    }

    get picture() { return this.#video; }
    get width() { return this.#video.videoWidth; }
    get height() { return this.#video.videoHeight; }
    get ended() { return this.#video.ended; }

    // True when there are pictures.
    ready() {
        return new Promise((resolve) => {
            const look = () => resolve(this.width > 0);
            if (this.#video.readyState >= 2 || this.#video.error)
                return look();
            this.#video.addEventListener("loadeddata", look, {once: true});
            this.#video.addEventListener("error", look, {once: true});
        });
    }

    // Shows the frame of that time. Of jumps that overtake each other the last one is made.
    async at(seconds) {
        const time = seconds + 0.001; // a container's clock may round a frame's start up
        this.#jump = this.#jump ? this.#jump.then(() => this.#seek(time)) : this.#seek(time);
        const mine = this.#jump;
        await mine;
        if (this.#jump === mine)
            this.#jump = null;
    }

    // A video that has nothing yet would take the time without a word: no `seeked` follows.
    async #seek(time) {
        if (!await this.ready() || Math.abs(this.#video.currentTime - time) < 0.0005)
            return;
        const presented = new Promise((resolve) => this.#video.requestVideoFrameCallback(resolve));
        await new Promise((resolve) => {
            const done = () => {
                this.#video.removeEventListener("seeked", done);
                this.#video.removeEventListener("error", done);
                resolve();
            };
            this.#video.addEventListener("seeked", done);
            this.#video.addEventListener("error", done);
            this.#video.currentTime = time;
        });
        // `seeked` may come before the frame can be drawn. A hidden page presents none.
        await Promise.race([presented, new Promise((resolve) => setTimeout(resolve, PRESENTED))]);
    }

    play() { return this.#video.play().catch(() => {}); } // it was paused before it began
    pause() { this.#video.pause(); }

    // The time of the next frame that the playing video presents.
    next(seen) { this.#video.requestVideoFrameCallback((now, frame) => seen(frame.mediaTime)); }

    close() {
        this.#video.pause();
        this.#video.removeAttribute("src");
        this.#video.load();
        URL.revokeObjectURL(this.#url);
    }
}
