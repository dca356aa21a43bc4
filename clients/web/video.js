// The view of uploaded videos: upload, the list, the results.
import {byId, clearError, el, sayError} from "./dom.js";
import {isActive, Library} from "./library.js";
import {Look} from "./look.js";
import {Player} from "./player.js";
import {Ribbon} from "./ribbon.js";
import {Stage} from "./stage.js";

const POLL = 2000; // milliseconds between looks at jobs that are not watched
const WATCHED = 2; // a browser opens six connections to a server, and masks need some
const RESULTS = [
    ["png", "Masks", "PNG, zip", "zip"],
    ["overlay", "Overlay", "H.264, mp4", "mp4"],
    ["rle", "Run lengths", "JSON lines", "jsonl"],
    ["labels", "Labels", "FFV1, mkv", "mkv"],
];

export class VideoView {
    #client; #models; #library; #current = null; #watched = new Map();

    constructor(client, models) {
        this.#client = client;
        this.#models = models;
        this.#library = new Library(client);
        this.stage = new Stage(byId("video-stage"), "Masks of the video");
        this.look = new Look(byId("video-look"), this.stage);
        this.player = new Player(client, this.stage, new Ribbon(byId("ribbon")),
            {play: byId("play"), seek: byId("seek"), position: byId("position")});
        this.look.setClasses(models[0].classes);
        for (const id of ["file", "drop-file"])
            byId(id).addEventListener("change", ({target}) => {
                [...target.files].forEach((file) => this.add(file));
                target.value = ""; // the same file may be chosen again
            });
        this.#listenToDrops(byId("video"));
        this.#poll();
    }

    // ---- upload

    #listenToDrops(root) {
        const over = (on) => byId("video-stage").classList.toggle("over", on);
        root.addEventListener("dragover", (event) => {
            event.preventDefault();
            over(true);
        });
        root.addEventListener("dragleave", (event) => over(root.contains(event.relatedTarget)));
        root.addEventListener("drop", (event) => {
            event.preventDefault();
            over(false);
            [...event.dataTransfer.files].forEach((file) => this.add(file));
        });
    }

    add(file) {
        clearError();
        const clip = this.#library.add(file);
        this.#select(clip);
        return this.#make(clip, "png");
    }

    // Another job for the clip, in that format.
    async #make(clip, format) {
        const stop = new AbortController(), {model, mode} = clip.main ?? {
            model: byId("video-model").value, mode: byId("video-mode").value};
        clip.sending = {format, sent: 0, total: clip.file.size, stop: () => stop.abort()};
        this.#render();
        try {
            const job = await this.#client.upload(clip.file, {model, mode, format}, {
                signal: stop.signal,
                progress: (sent, total) => {
                    Object.assign(clip.sending, {sent, total});
                    this.#render();
                },
            });
            clip.sending = null;
            this.#library.put(clip, job);
            this.#follow(clip, job);
        } catch (error) {
            clip.sending = null;
            if (!stop.signal.aborted)
                this.#failed(clip, error.message);
            if (!clip.main)
                await this.#remove(clip);
        }
        this.#render();
    }

    #failed(clip, words) { sayError(`${clip.name}: ${words}`); }

    // ---- jobs

    // Progress of the job by events, and what it has on the stage if it is the one to be seen.
    #follow(clip, job) {
        if (clip === this.#current && clip.main?.id === job.id)
            this.#open(clip);
        if (clip !== this.#current || this.#watched.size >= WATCHED || this.#watched.has(job.id) || !isActive(job))
            return;
        const take = (now) => {
            clip.jobs[now.format] = now;
            if (clip === this.#current)
                this.player.update(now);
            this.#render();
        };
        this.#watched.set(job.id, this.#client.watch(job.id, take, (now) => {
            this.#unwatch(now.id);
            take(now);
            this.#sayEnd(clip, now);
        }));
    }

    #unwatch(id) {
        this.#watched.get(id)?.();
        this.#watched.delete(id);
    }

    #sayEnd(clip, job) {
        if (job.state === "failed")
            this.#failed(clip, problemWords(job.error));
        byId("progress-words").textContent = [`${clip.name}: ${job.state}, ${job.frames.done} frames`,
            ...warningWords(job)].join(". ");
    }

    async #poll() {
        try {
            if (!document.hidden)
                await this.#library.refresh();
            if (this.#current && !this.#library.clips.includes(this.#current))
                this.#select(null);
            this.#render();
        } catch {
            // the lamp in the bar says so
        }
        setTimeout(() => this.#poll(), POLL);
    }

    // ---- the clip on the stage

    #select(clip) {
        if (clip === this.#current && clip)
            return;
        for (const job of Object.values(this.#current?.jobs ?? {}))
            this.#unwatch(job.id);
        this.#current = clip;
        byId("drop").hidden = clip !== null;
        if (!clip)
            this.player.close();
        else if (!clip.main)
            this.player.preview(clip.file);
        else
            Object.values(clip.jobs).forEach((job) => this.#follow(clip, job));
        this.#render();
    }

    #open(clip) {
        const job = clip.main, model = this.#models.find(({name}) => name === job.model) ?? this.#models[0];
        this.look.setClasses(model.classes);
        this.player.open(job, model.classes, clip.file);
    }

    async #remove(clip) {
        for (const job of Object.values(clip.jobs))
            this.#unwatch(job.id);
        if (clip === this.#current)
            this.#select(null);
        await this.#library.remove(clip).catch(sayError);
        this.#render();
    }

    // ---- the lists; rows stay the same elements, so that the focus stays where it is

    #render() {
        const {clips} = this.#library;
        byId("jobs-section").hidden = clips.length === 0;
        sync(byId("jobs"), clips, (clip) => clip.key, (clip) => this.#clipRow(clip), (row, clip) => {
            const {words, state, part} = stateOf(clip);
            row.dataset.current = clip === this.#current;
            row.querySelector(".pick").setAttribute("aria-current", clip === this.#current);
            const text = row.querySelector(".state"), bar = row.querySelector("progress");
            text.textContent = words;
            text.dataset.state = state;
            row.querySelector(".warning").textContent = warningWords(clip.main).join();
            bar.hidden = part === null;
            bar.value = part ?? 0;
            const button = row.querySelector(".quiet");
            button.textContent = clip.active ? "Cancel" : "Delete";
            button.ariaLabel = `${button.textContent} ${clip.name}`;
        });
        this.#renderResults();
    }

    #clipRow(clip) {
        const pick = el("button", {className: "pick"}, el("span", {}, clip.name), el("span", {className: "state"}),
            el("span", {className: "warning"}), el("progress", {max: 1, ariaLabel: `Progress of ${clip.name}`}));
        const remove = el("button", {className: "quiet"});
        pick.addEventListener("click", () => this.#select(clip));
        remove.addEventListener("click", () => this.#remove(clip));
        return el("li", {}, pick, remove);
    }

    #renderResults() {
        const clip = this.#current;
        byId("results-section").hidden = !clip?.main;
        if (!clip?.main)
            return;
        sync(byId("results"), RESULTS, ([format]) => `${clip.key} ${format} ${resultState(clip, format)}`,
            (result) => this.#resultRow(clip, result), (row, [format]) => {
                const bar = row.querySelector("progress"), job = clip.jobs[format];
                if (bar)
                    bar.value = jobPart(job) ?? 0;
            });
    }

    // A link cannot send the key.
    async #download(event, path, name) {
        event.preventDefault();
        try {
            const href = URL.createObjectURL(await (await this.#client.request("GET", path)).blob());
            el("a", {href, download: name}).click();
            setTimeout(() => URL.revokeObjectURL(href), 60000);
        } catch (error) {
            sayError(error);
        }
    }

    #resultRow(clip, [format, title, kind, ending]) {
        const row = el("li", {data: {format}}, el("span", {className: "what"}, title, el("small", {}, kind)));
        const state = resultState(clip, format), name = `${clip.name.replace(/\.[^.]*$/, "")}.${ending}`;
        if (state === "succeeded") {
            const link = el("a", {href: clip.jobs[format].masks, download: name, ariaLabel: `Download ${title}`}, "Download");
            if (this.#client.key)
                link.addEventListener("click", (event) => this.#download(event, clip.jobs[format].masks, name));
            row.append(link);
        } else if (state === "active") {
            row.append(el("span", {className: "none"}, "working"), el("progress", {max: 1, ariaLabel: `Progress of ${title}`}));
        } else if (state === "possible") {
            const make = el("button", {className: "quiet", ariaLabel: `Make ${title}`}, "Make");
            make.addEventListener("click", () => this.#make(clip, format));
            row.append(make);
        } else {
            row.append(el("span", {className: "none", title: "Choose the file again to make it"}, state));
        }
        return row;
    }
}

const jobPart = (job) => isActive(job) ? job.frames.done / (job.frames.total || Infinity) : null;
const problemWords = (problem) => problem ? `${problem.title}${problem.detail ? `: ${problem.detail}` : ""}.` : "it failed.";
const warningWords = (job) => job?.warning ? [`Warning: ${job.warning}`] : [];

function resultState(clip, format) {
    const job = clip.jobs[format];
    if (job)
        return isActive(job) ? "active" : job.state;
    if (clip.sending?.format === format)
        return "sending";
    return clip.file && !clip.sending ? "possible" : "–";
}

// What a clip's row says: words, a state for the style sheet, and how much is done, or null.
function stateOf(clip) {
    const job = clip.main;
    if (!job) {
        const {sent = 0, total = 1} = clip.sending ?? {};
        return {words: `sending, ${Math.floor(100 * sent / total)} %`, state: "sending", part: sent / total};
    }
    const {done, total} = job.frames, size = job.size ? `, ${job.size.join(" × ")}` : "";
    switch (job.state) {
    case "queued": return {words: "waiting", state: "queued", part: 0};
    case "running": return {words: `frame ${done} of ${total ?? "?"}${size}`, state: "running", part: jobPart(job)};
    case "succeeded": return {words: `${done} frames${size}`, state: "succeeded", part: null};
    case "failed": return {words: problemWords(job.error), state: "failed", part: null};
    default: return {words: job.state, state: job.state, part: null};
    }
}

// Makes the list's children those of `items`, by key, with as little change as can be.
function sync(list, items, key, make, update) {
    const rows = new Map([...list.children].map((row) => [row.dataset.key, row]));
    let before = list.firstElementChild;
    for (const item of items) {
        const id = key(item);
        let row = rows.get(id);
        rows.delete(id);
        if (!row) {
            row = make(item);
            row.dataset.key = id;
        }
        if (row === before)
            before = before.nextElementSibling;
        else
            list.insertBefore(row, before);
        update(row, item);
    }
    rows.forEach((row) => row.remove());
}
