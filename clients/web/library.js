// What was uploaded: clips, each with a job for every format of result that was asked for.
//
// The server knows jobs and no file names. Which job belongs to which clip, and its name, is kept in
// this browser; the files themselves only as long as the page is open.

const KEY = "tv3sd.videos";
const ACTIVE = ["queued", "running"];
const DRAWABLE = ["png", "rle", "labels", "raw"];

export const isActive = (job) => ACTIVE.includes(job?.state);

export class Clip {
    jobs = {}; // format -> job
    file = null;
    sending = null; // {sent, total, stop} while the file is on its way

    constructor(key, name) {
        this.key = key;
        this.name = name;
    }

    // The job whose masks are looked at.
    get main() {
        const all = Object.values(this.jobs);
        return all.find((job) => DRAWABLE.includes(job.format)) ?? all[0] ?? null;
    }

    get active() { return this.sending !== null || Object.values(this.jobs).some(isActive); }
}

export class Library {
    #client; #known;
    clips = []; // newest first

    constructor(client) {
        this.#client = client;
        try {
            this.#known = JSON.parse(localStorage.getItem(KEY)) ?? {};
        } catch {
            this.#known = {};
        }
    }

    add(file) {
        const clip = new Clip(crypto.getRandomValues(new Uint32Array(2)).join("-"), file.name || "video");
        clip.file = file;
        this.clips.unshift(clip);
        return clip;
    }

    put(clip, job) {
        clip.jobs[job.format] = job;
        this.#known[job.id] = {key: clip.key, name: clip.name};
        this.#save();
    }

    // As the server has it now.
    async refresh() {
        const jobs = await this.#client.videos(), there = new Set(jobs.map((job) => job.id));
        for (const clip of this.clips)
            for (const [format, job] of Object.entries(clip.jobs))
                if (!there.has(job.id))
                    delete clip.jobs[format];
        for (const job of jobs.reverse()) {
            const {key = job.id, name = `video ${job.id.slice(0, 8)}`} = this.#known[job.id] ?? {};
            let clip = this.clips.find((one) => one.key === key);
            if (!clip)
                this.clips.unshift(clip = new Clip(key, name));
            clip.jobs[job.format] = job;
        }
        this.clips = this.clips.filter((clip) => clip.main || clip.sending || clip.file);
        for (const id of Object.keys(this.#known))
            if (!there.has(id))
                delete this.#known[id];
        this.#save();
    }

    async remove(clip) {
        clip.sending?.stop();
        this.clips = this.clips.filter((one) => one !== clip);
        for (const job of Object.values(clip.jobs))
            await this.#client.removeVideo(job.id).catch((error) => {
                if (error.status !== 404)
                    throw error;
            });
    }

    #save() {
        try {
            localStorage.setItem(KEY, JSON.stringify(this.#known));
        } catch {
            // a browser that keeps nothing shows IDs instead of names
        }
    }
}
