// The page: shows where the measurement is, and carries work between the server and the worker.
// It keeps nothing but its session: the server knows what is left to do, so a reload goes on.

import { deviceFacts } from "./facts.js";

const HEARTBEAT_MS = 2000;
const at = (id) => document.getElementById(id);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const words = new URLSearchParams(location.hash.slice(1));
const MAGIC = new TextEncoder().encode("factory1");

let facts = null;
let session = remembered();
let visit = 0;
let runner = null; // the worker, once it is ready
let latest = {}; // status as the server told it last

class Refused extends Error {
  constructor(status, reason) {
    super(reason);
    this.status = status;
  }
}

function remembered() {
  try {
    return localStorage.getItem("session") || "";
  } catch { // storage may be switched off: then a reload cannot go on
    return "";
  }
}

function remember(value) {
  session = value;
  try {
    localStorage.setItem("session", value);
  } catch { /* see above */ }
}

// A page that is being left takes part in nothing: what breaks in it then says nothing of a model.
let leaving = false;
addEventListener("beforeunload", () => { leaving = true; });
addEventListener("pagehide", () => { leaving = true; });
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
const unlessLeaving = () => (leaving ? new Promise(() => {}) : null);

// The answer to one request, read to its end ("json" or "arrayBuffer"); the network's absence is
// waited out, also in the middle of an answer; a refusal is thrown.
async function ask(method, path, body, { read = "json", type = "application/json" } = {}) {
  for (let pause = 500; ; pause = Math.min(pause * 1.6, 5000)) {
    await unlessLeaving();
    let answer;
    try {
      answer = await fetch(path, {
        method,
        headers: { "X-Session": session, "X-Visit": String(visit), "Content-Type": type },
        body,
        cache: "no-store",
      });
      if (answer.ok) return await answer[read]();
    } catch {
      await unlessLeaving();
      phase("Looking for the computer…");
      await sleep(pause);
      continue;
    }
    const reason = (await answer.json().catch(() => ({}))).reason || answer.statusText;
    throw new Refused(answer.status, reason);
  }
}

async function tell(path, value) {
  const answer = await ask("POST", path, JSON.stringify(value));
  if (answer.status) show(answer.status);
  return answer;
}

// What is seen.

function phase(text) {
  if (at("phase").textContent !== text) at("phase").textContent = text;
}

function list(id, pairs) {
  at(id).replaceChildren(...pairs.flatMap(([name, value]) => {
    const term = document.createElement("dt");
    const said = document.createElement("dd");
    term.textContent = name;
    said.textContent = value;
    return [term, said];
  }));
}

function notes(texts) {
  at("notes").replaceChildren(...texts.map((text) => {
    const item = document.createElement("li");
    item.textContent = text;
    return item;
  }));
}

function heading(title, lead) {
  at("title").textContent = title;
  at("lead").textContent = lead;
}

function duration(seconds) {
  if (seconds < 50) return "under 1 min";
  const minutes = Math.round(seconds / 60);
  return minutes < 60 ? `about ${minutes} min` : `about ${(seconds / 3600).toFixed(1)} h`;
}

const milliseconds = (ms) => (ms < 1 ? `${ms.toFixed(3)} ms` : `${ms.toPrecision(3)} ms`);

function outcome(status) {
  const pairs = [];
  if (status.kernels) pairs.push(["Building blocks timed", String(status.kernels)]);
  if (status.networks) pairs.push(["Whole networks timed", String(status.networks)]);
  if (status.network_ms) {
    const [least, most] = status.network_ms;
    pairs.push(["Fastest network", milliseconds(least)], ["Slowest network", milliseconds(most)]);
  }
  if (status.failed) pairs.push(["Could not run here", String(status.failed)]);
  list("results", pairs);
  at("outcome").hidden = pairs.length === 0;
}

function show(status) {
  latest = status;
  const { done, total } = status;
  if (total) {
    const percent = Math.min(100, Math.floor((100 * done) / total));
    at("percent").textContent = String(percent);
    at("fill").style.width = `${percent}%`;
    at("bar").setAttribute("aria-valuenow", String(percent));
    at("steps").textContent = `${done} of ${total} ${status.unit || "models"}`;
    at("left").textContent = status.seconds_left ? `${duration(status.seconds_left)} left` : "";
  }
  outcome(status);
}

function describe() {
  const { hints } = facts;
  const brand = (hints.fullVersionList || []).find((b) => !/not.?a.?brand|^chromium$/i.test(b.brand))
    || (hints.fullVersionList || []).find((b) => /^chromium$/i.test(b.brand));
  const speed = [facts.simd && "SIMD", facts.isolated && facts.shared_memory && "threads",
    facts.webgpu && "WebGPU", facts.webnn && "WebNN"].filter(Boolean);
  list("facts", [
    ...(hints.model ? [["Model", hints.model]] : []),
    ...(hints.platform ? [["System", `${hints.platform} ${hints.platformVersion || ""}`.trim()]] : []),
    ...(brand ? [["Browser", `${brand.brand} ${brand.version.split(".")[0]}`]] : []),
    ["Processor cores", String(facts.cores)],
    ["Can use", speed.join(", ") || "plain WebAssembly"],
  ]);
  at("device").hidden = false;
  const said = [];
  if (!facts.isolated) {
    said.push("This page was not opened over HTTPS, so one core is used and its clock is coarse. "
      + "The measurement works, it only takes longer.");
  }
  if (!("wakeLock" in navigator)) said.push("Keep the screen on: this browser lets it go dark.");
  notes(said);
}

function end(title, lead, kind) {
  document.body.className = kind;
  heading(title, lead);
  at("progress").hidden = true;
  at("start").hidden = true;
  at("device").hidden = kind === "stopped";
  at("small").textContent = "";
  notes([]);
}

// The screen stays on where the browser allows it; hidden pages measure nothing.

let lock = null;
async function keepAwake() {
  try {
    if (!lock || lock.released) lock = await navigator.wakeLock.request("screen");
  } catch { /* not allowed, or no secure context */ }
}

document.addEventListener("visibilitychange", () => {
  const visible = document.visibilityState === "visible";
  if (runner) runner.postMessage({ type: "visible", visible });
  if (visible && session && visit) keepAwake();
});

// The worker.

async function startRunner(config) {
  runner = new Worker(new URL("./runner.js", import.meta.url), { type: "module" });
  runner.settings = JSON.stringify(config);
  runner.onerror = (event) => runner && runner.onmessage
    && runner.onmessage({ data: { type: "broken", reason: event.message || "the worker failed" } });
  phase("Loading the runtime…");
  await new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error("the runtime did not load in two minutes")), 120000);
    runner.onmessage = ({ data }) => {
      if (data.type === "tick") return;
      clearTimeout(timer);
      if (data.type === "ready") resolve();
      else reject(new Error(data.reason));
    };
    runner.postMessage({ type: "init", config });
  });
  if (document.visibilityState !== "visible") runner.postMessage({ type: "visible", visible: false });
}

function stopRunner() {
  if (runner) runner.terminate();
  runner = null;
}

const PHASES = { "making the session": "Preparing", "warming up": "Warming up",
  measuring: "Measuring", tracing: "Looking inside", running: "Running" };

// Does one job in the worker; a model that hangs or breaks the worker is reported as failed.
async function work(job) {
  const config = { ...job.config, tick_ms: facts.tick_ms };
  if (runner && runner.settings !== JSON.stringify(config)) stopRunner();
  let busy = { index: job.todo[0], phase: "making the session" };
  const path = `/api/job/${job.job}`;
  const waiting = []; // requests on their way
  try {
    if (!runner) await startRunner(config);
    const arrays = job.kind === "run"
      ? unpack(await ask("GET", `${path}/arrays`, undefined, { read: "arrayBuffer" })) : {};
    await new Promise((resolve, reject) => {
      let heard = performance.now();
      let beating = false;
      const heartbeat = setInterval(() => {
        const silent = performance.now() - heard;
        if (document.visibilityState !== "visible") {
          heard = performance.now();
          phase("Paused while the page is in the background");
        } else if (silent > job.timeout_s * 1000) {
          stop(new Error(`timed out after ${job.timeout_s} s while ${busy.phase}`));
          return;
        }
        if (!beating) {
          beating = true;
          tell(`${path}/tick`, { index: -1, phase: "" }).then(() => { beating = false; }, stop);
        }
      }, HEARTBEAT_MS);
      const stop = (error) => {
        clearInterval(heartbeat);
        if (error) reject(error);
        else resolve();
      };
      const forward = async (data) => {
        if (data.type === "need") {
          const content = await ask("GET", `${path}/model/${data.index}`, undefined, { read: "arrayBuffer" });
          const model = new Uint8Array(content);
          runner.postMessage({ type: "model", model, key: job.keys[data.index] }, [model.buffer]);
        } else if (data.type === "tick") {
          if (!data.phase) return;
          busy = data;
          phase(`${PHASES[data.phase] || data.phase}…`);
          await tell(`${path}/tick`, { index: data.index, phase: data.phase });
        } else if (data.type === "result") {
          await tell(`${path}/result/${data.index}`, data.result);
        } else if (data.type === "reply") {
          const frame = data.reason ? pack({ reply: "error", reason: data.reason }, [])
            : pack({ reply: "outputs", arrays: data.parts.map((part) => part.fact) },
              data.parts.map((part) => part.blob));
          await ask("POST", `${path}/reply`, frame, { type: "application/octet-stream" });
          stop();
        } else if (data.type === "done") {
          await Promise.all(waiting);
          stop();
        } else if (data.type === "broken") {
          throw new Error(data.reason);
        }
      };
      runner.onmessage = ({ data }) => {
        heard = performance.now();
        const sent = forward(data);
        if (data.type === "result") waiting.push(sent);
        sent.catch(stop);
      };
      if (job.kind === "time") {
        const { plan, rounds, todo, first_reference } = job;
        runner.postMessage({ type: "time", plan, rounds, todo, first_reference });
      } else {
        runner.postMessage({ type: "run", command: job.command, key: job.keys[0], ...arrays });
      }
    });
  } catch (error) {
    await unlessLeaving();
    stopRunner(); // whatever state it is in, the next job gets a fresh one
    if (error instanceof Refused && error.status === 404) return; // no longer wanted
    if (error instanceof Refused) throw error;
    const reason = String(error.message || error);
    if (job.kind === "run") {
      await ask("POST", `${path}/reply`, pack({ reply: "error", reason }, []),
        { type: "application/octet-stream" });
    } else if (busy.index >= 0) {
      await tell(`${path}/result/${busy.index}`, { status: "failed", reason });
    } else {
      await tell(`${path}/result/${job.todo[0]}`, { status: "failed", reason });
    }
  }
}

// Frames as in factory/core/frames.py: magic, length of the header, header, blobs.

function pack(header, blobs) {
  const text = new TextEncoder().encode(
    JSON.stringify({ ...header, blobs: blobs.map((blob) => blob.byteLength) }));
  const length = new Uint8Array(4);
  new DataView(length.buffer).setUint32(0, text.length);
  return new Blob([MAGIC, length, text, ...blobs]);
}

function unpack(buffer) {
  const length = new DataView(buffer).getUint32(MAGIC.length);
  let start = MAGIC.length + 4;
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, start, length)));
  start += length;
  const blobs = header.blobs.map((size) => {
    start += size;
    return buffer.slice(start - size, start);
  });
  return { facts: header.arrays, blobs };
}

// The course of things.

async function measure() {
  document.body.className = "";
  heading("Measuring", "Keep this page open and the screen on. Other apps make the result worse.");
  at("start").hidden = true;
  at("progress").hidden = false;
  at("small").textContent = "You may reload or lock the screen: the measurement goes on where it was.";
  keepAwake();
  for (;;) {
    const job = await ask("GET", "/api/work");
    show(job.status);
    if (job.kind === "finished") break;
    if (job.kind === "idle") phase("Waiting for the computer…");
    else await work(job);
  }
  stopRunner();
  remember("");
  outcome(latest);
  end(latest.interrupted ? "Stopped" : "Done, thank you",
    latest.interrupted ? "The computer has stopped the measurement. What was measured is kept."
      : "The computer has every result. You can close this page.", "done");
  at("small").textContent = "These are times in this browser. An app made for the device may run "
    + "the same networks faster.";
}

async function meet(path, body) {
  const answer = await tell(path, { ...body, facts });
  visit = answer.visit;
  remember(answer.session);
  history.replaceState(null, "", location.pathname); // a used token is of no use to anyone
}

async function main() {
  facts = await deviceFacts();
  describe();
  try {
    if (session) {
      try {
        await meet("/api/hello", {});
      } catch (error) {
        if (!(error instanceof Refused) || !words.get("token")) throw error;
        remember("");
      }
    }
    if (!session) {
      if (!words.get("token")) throw new Refused(403, "Scan the code that the computer shows.");
      if (!words.has("start")) {
        heading("Measure this device",
          "Small neural networks will run in this browser, to find out how fast this device is.");
        at("small").textContent = "Nothing is installed. The models come from the computer that "
          + "showed you the code, and only their times go back to it.";
        at("start").hidden = false;
        await new Promise((resolve) => { at("start").onclick = resolve; });
        at("start").disabled = true;
      }
      await meet("/api/pair", { token: words.get("token") });
    }
    await measure();
  } catch (error) {
    stopRunner();
    if (error instanceof Refused && error.status === 403) remember("");
    const text = String(error.message || error);
    end("This page cannot go on", text[0].toUpperCase() + text.slice(1), "stopped");
  }
}

main();
