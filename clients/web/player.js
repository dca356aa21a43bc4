// One clip on the stage: follows the work while it runs, plays and scrubs what is there.
//
// With the file at hand the film is the clock when it plays: each frame that it presents is drawn
// together with its mask, and where a mask is late the film waits. Without the file, or where the
// browser cannot decode it, the masks are shown alone.
import {sayError} from "./dom.js";
import {Film} from "./film.js";
import {isActive} from "./library.js";
import {Masks} from "./masks.js";

const AHEAD = 16; // frames fetched before they are due

export class Player {
    #client; #stage; #ribbon; #controls; #film = null; #masks = null; #job = null;
    #at = -1; #asked = 0; #playing = false; #following = false; #busy = false;

    // controls: {play, seek, position}, elements
    constructor(client, stage, ribbon, controls) {
        this.#client = client;
        this.#stage = stage;
        this.#ribbon = ribbon;
        this.#controls = controls;
        controls.play.addEventListener("click", () => this.toggle());
        controls.seek.addEventListener("input", () => {
            this.pause();
            this.#following = false;
            this.show(Number(controls.seek.value));
        });
    }

    get frame() { return this.#at; }
    get job() { return this.#job; }
    get done() { return this.#job?.frames.done ?? 0; }

    // The file alone, before there is a job: its first picture.
    async preview(file) {
        this.close();
        const film = this.#film = new Film(file);
        if (await film.ready() && film === this.#film && !this.#job) {
            await film.at(0);
            if (film === this.#film && !this.#job)
                this.#stage.showPicture(film.picture, film.width, film.height);
        }
    }

    async open(job, classes, file) {
        if (!this.#film || this.#job)
            this.close();
        if (file && !this.#film)
            this.#film = new Film(file);
        this.#job = job;
        const masks = this.#masks = new Masks(this.#client, job);
        masks.onmask = (n, mask) => this.#ribbon.set(n, mask.counts);
        this.#ribbon.open(classes, job.frames.total ?? job.frames.done);
        this.#following = isActive(job);
        const film = this.#film;
        if (film && !(await film.ready()) && film === this.#film) {
            film.close();
            this.#film = null;
        }
        if (masks !== this.#masks)
            return;
        this.update(this.#job); // which may be newer than `job` by now
        if (!this.#following && this.done > 0)
            await this.show(0);
        this.#fill();
    }

    // The job went on.
    update(job) {
        if (!this.#masks || job.id !== this.#job.id)
            return;
        const ended = isActive(this.#job) && !isActive(job);
        this.#job = job;
        this.#masks.update(job);
        this.#ribbon.resize(Math.max(job.frames.total ?? 0, job.frames.done));
        const {seek, play} = this.#controls;
        seek.max = Math.max(0, (job.frames.total ?? job.frames.done) - 1);
        seek.disabled = play.disabled = job.frames.done === 0;
        this.#say();
        if (this.#following)
            this.#follow();
        if (ended)
            this.#fill();
    }

    close() {
        this.pause();
        this.#asked++;
        this.#masks?.close();
        this.#film?.close();
        this.#masks = this.#film = this.#job = null;
        this.#at = -1;
        this.#stage.clear();
        this.#ribbon.open([], 0);
        this.#controls.seek.max = this.#controls.seek.value = 0;
        this.#controls.seek.disabled = this.#controls.play.disabled = true;
        this.#say();
    }

    // ---- one frame

    // False where there is nothing to show, or something else was asked for meanwhile.
    async show(n) {
        const mine = ++this.#asked, masks = this.#masks;
        n = Math.max(0, Math.min(n, this.done - 1));
        if (!masks || this.done === 0)
            return false;
        try {
            const mask = await masks.get(n);
            if (n > 0 && masks.times[0] === undefined)
                await masks.get(0); // where the file's clock begins
            if (mine === this.#asked)
                await this.#film?.at(this.#time(n));
            if (mine !== this.#asked)
                return false;
            this.#draw(n, mask);
            return true;
        } catch (error) {
            if (mine === this.#asked && error.name !== "AbortError")
                sayError(error);
            return false;
        }
    }

    step(by) {
        this.pause();
        this.#following = false;
        return this.show(this.#at + by);
    }

    #draw(n, mask) {
        this.#at = n;
        this.#stage.showPicture(this.#film?.picture ?? null, mask.width, mask.height);
        this.#stage.showMask(mask);
        this.#controls.seek.value = n;
        this.#say();
    }

    #say() {
        const {seek, position} = this.#controls, total = this.#job?.frames.total ?? this.done;
        position.textContent = this.#job ? `${this.#at + 1} / ${total}` : "";
        seek.setAttribute("aria-valuetext", `frame ${this.#at + 1} of ${total}`);
        this.#stage.say(this.#job && this.#at >= 0 ? `${this.#time(this.#at).toFixed(2)} s` : "");
    }

    // Most containers begin at zero. Where one does not, the browser's clock begins at the first frame.
    #base() {
        const first = this.#masks.times[0] ?? 0;
        return first < 1 ? 0 : first;
    }

    #time(n) {
        const time = this.#masks?.times[n];
        return time === undefined ? n / (this.#job.fps || 25) : time - this.#base();
    }

    // The frame that is on at that time: guessed by the rate, then by the times that are known.
    #index(seconds) {
        const {times} = this.#masks, time = seconds + this.#base() + 0.002;
        let n = Math.max(0, Math.round(seconds * (this.#job.fps || 25)));
        while (n > 0 && times[n] > time)
            n--;
        while (times[n + 1] <= time)
            n++;
        return n;
    }

    // ---- the newest frames while the work goes on, a part of the way at a time

    async #follow() {
        if (this.#busy)
            return;
        this.#busy = true;
        const masks = this.#masks;
        while (this.#following && masks === this.#masks && this.#at < this.done - 1) {
            const behind = this.done - 1 - this.#at;
            if (!await this.show(this.#at + Math.max(1, Math.round(behind / 4))))
                this.#following = false;
        }
        this.#busy = false;
        if (this.#following && masks === this.#masks && !isActive(this.#job))
            this.#following = false;
    }

    // ---- playing

    toggle() {
        if (this.#playing)
            this.pause();
        else
            this.play();
    }

    async play() {
        if (!this.#masks || this.done === 0)
            return;
        this.#following = false;
        this.#set(true);
        if (this.#at >= this.done - 1 && !await this.show(0))
            return this.pause();
        if (this.#film)
            this.#playFilm();
        else
            this.#playMasks(performance.now(), this.#at);
    }

    pause() {
        this.#set(false);
        this.#film?.pause();
    }

    #set(playing) {
        this.#playing = playing;
        this.#controls.play.ariaPressed = String(playing);
        this.#controls.play.ariaLabel = playing ? "Pause" : "Play";
    }

    #end() {
        this.pause();
        this.#following = isActive(this.#job); // it caught up
    }

    #playFilm() {
        const film = this.#film, masks = this.#masks;
        const seen = async (time) => {
            if (!this.#playing || film !== this.#film)
                return;
            const n = this.#index(time), mask = masks.peek(n);
            if (n >= this.done)
                return this.#end();
            masks.prefetch(n + 1, Math.min(n + AHEAD, this.done));
            if (mask) {
                this.#draw(n, mask);
                film.next(seen);
            } else {
                film.pause();
                if (await this.show(n))
                    this.#playFilm();
                else
                    this.pause();
            }
            if (n >= this.done - 1)
                this.#end();
        };
        if (!this.#playing || film === null)
            return;
        film.next(seen);
        film.play();
    }

    #playMasks(start, first) {
        const frame = async () => {
            if (!this.#playing || this.#film)
                return;
            const n = first + Math.floor((performance.now() - start) / 1000 * (this.#job.fps || 25));
            if (n >= this.done)
                return this.#end();
            if (n !== this.#at && !await this.show(n))
                return this.pause();
            this.#masks?.prefetch(n + 1, Math.min(n + AHEAD, this.done));
            requestAnimationFrame(frame);
        };
        requestAnimationFrame(frame);
    }

    // ---- the ribbon: what was not looked at, evenly spaced, when the work is done

    async #fill() {
        const masks = this.#masks;
        if (!masks || isActive(this.#job))
            return;
        for (const n of this.#ribbon.samples()) {
            if (masks !== this.#masks || n >= this.done)
                return;
            await masks.get(n).catch(() => {}); // a column stays empty
        }
    }
}
