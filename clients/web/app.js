// The page: three views of one server. The address holds which one, and the stream's ID:
// #video, #live/cam-7, #server.
import {byId, el, sayError, clearError} from "./dom.js";
import {LiveView} from "./live.js";
import {ServerView} from "./server.js";
import {Client} from "./tv3s.js";
import {VideoView} from "./video.js";

const VIEWS = ["video", "live", "server"];

function address() {
    const [view, id = ""] = location.hash.slice(1).split("/"); // IDs need no escapes
    return {view: VIEWS.includes(view) ? view : "video", id};
}

function show(view, id) {
    for (const name of VIEWS) {
        const tab = byId(`tab-${name}`), on = name === view;
        tab.setAttribute("aria-selected", on);
        tab.tabIndex = on ? 0 : -1;
        byId(name).hidden = !on;
    }
    history.replaceState(null, "", `#${view}${view === "live" && id ? `/${id}` : ""}`);
}

// Arrow keys go from tab to tab, as is the custom.
function wireTabs(id) {
    const tabs = VIEWS.map((name) => byId(`tab-${name}`));
    tabs.forEach((tab, i) => {
        tab.addEventListener("click", () => show(VIEWS[i], id()));
        tab.addEventListener("keydown", ({key}) => {
            const to = {ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1}[key];
            if (to === undefined)
                return;
            const n = (to + tabs.length) % tabs.length;
            show(VIEWS[n], id());
            tabs[n].focus();
        });
    });
}

// Keys that work wherever the focus is not on something that uses them itself.
function wireKeys(video, live) {
    document.addEventListener("keydown", (event) => {
        const {target, key} = event;
        if (event.ctrlKey || event.metaKey || event.altKey || target.matches("select, input[type=text], input[type=number]"))
            return;
        const view = !byId("video").hidden ? video : !byId("live").hidden ? live : null;
        const free = !target.matches("button, input, a, [role=tab]");
        if (key === "m" || key === "M")
            view?.stage.toggle();
        else if (key === " " && view === video && (free || target === byId("seek")))
            video.player.toggle();
        else if (key === "ArrowLeft" && view === video && free)
            video.player.step(-1);
        else if (key === "ArrowRight" && view === video && free)
            video.player.step(1);
        else
            return;
        event.preventDefault();
    });
}

function fillModels(models) {
    for (const id of ["video-model", "live-model"])
        byId(id).replaceChildren(...models.map(({name}) => el("option", {value: name}, name)));
}

// The key stays with this tab, and goes with it.
const KEY = "tv3sd.key";

// What the server says of itself, once it knows us: where it wants a key, somebody is asked for one.
async function greet(client) {
    for (;;) {
        try {
            const said = await Promise.all([client.models(), client.server()]);
            if (client.key)
                sessionStorage.setItem(KEY, client.key);
            return said;
        } catch (error) {
            if (error.status !== 401)
                throw error;
            if (client.key)
                sayError("The server does not know this key.");
            client.key = await askForKey();
            clearError();
        }
    }
}

function askForKey() {
    const form = byId("key-form");
    form.hidden = false;
    byId("key").focus();
    return new Promise((resolve) => form.addEventListener("submit", (event) => {
        event.preventDefault();
        form.hidden = true;
        resolve(byId("key").value.trim());
        byId("key").value = "";
    }, {once: true}));
}

async function start() {
    const client = new Client(location.origin, {key: sessionStorage.getItem(KEY)}), {view, id} = address();
    const [models, info] = await greet(client);
    fillModels(models);
    show(view, id);
    const video = new VideoView(client, models), live = new LiveView(client, models, id);
    const server = new ServerView(client, models, info);
    live.onid = (now) => byId("live").hidden || show("live", now);
    wireTabs(() => live.id);
    wireKeys(video, live);
    byId("notice").querySelector("button").addEventListener("click", clearError);
    document.tv3s = {client, video, live, server}; // for the console
    document.documentElement.dataset.ready = "true";
}

start().catch(sayError);
