// The worker that holds ONNX Runtime Web, so that the page stays alive whatever a model does.
// Messages in: init, model, time, run, visible. Out: ready, need, tick, result, done, reply, broken.

import { Candidate, REFERENCE_TIME, arrayOf, makeSession, trace } from "./timing.js";

// The runtime prints its trace; whoever loads it later gets this console.
const heard = [];
let listening = false;
const say = console.log.bind(console);
console.log = (...words) => (listening ? heard.push(words.join(" ")) : say(...words));

let ort = null;
let config = null;
const seen = new Set(); // models that were warmed up here before
let kept = { key: "", session: null };

const channel = new MessageChannel();
let wake = null;
channel.port1.onmessage = () => wake();
const breathe = () => new Promise((resolve) => { // lets messages in, unlike a resolved promise
  wake = resolve;
  channel.port2.postMessage(0);
});

let visible = true;
let wasHidden = false;
let shown = null;
const world = {
  // Lets the outside in; waits while the page is hidden; whether it was hidden since the last look.
  async look() {
    await breathe();
    while (!visible) await new Promise((resolve) => { shown = resolve; });
    const hidden = wasHidden;
    wasHidden = false;
    return hidden;
  },
};

const words = (error) => String((error && error.message) || error).slice(0, 400);
const tick = (index, phase) => postMessage({ type: "tick", index, phase });

let delivered = null;
function modelOf(index) {
  return new Promise((resolve) => {
    delivered = resolve;
    postMessage({ type: "need", index });
  });
}

async function init(message) {
  config = message.config;
  const webgpu = config.provider !== "wasm";
  ort = await import(webgpu ? "./ort/ort.webgpu.min.mjs" : "./ort/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
  ort.env.wasm.numThreads = config.threads;
  ort.env.logLevel = "error";
  postMessage({ type: "ready", version: ort.env.versions.common || "" });
}

async function time({ plan, rounds, todo, first_reference }) {
  if (kept.session) await kept.session.release(); // nothing else in memory while the clock runs
  kept = { key: "", session: null };
  const models = new Map();
  const ready = new Map();
  const results = new Map();
  async function attempt(index, work) {
    try {
      await work();
    } catch (error) {
      const candidate = ready.get(index);
      ready.delete(index);
      if (candidate) await candidate.release().catch(() => {});
      results.set(index, { status: "failed", reason: words(error) });
    }
  }
  for (const index of todo) {
    await attempt(index, async () => {
      const { model, key } = await modelOf(index);
      models.set(index, model);
      tick(index, "making the session");
      const candidate = await Candidate.make(ort, model.slice(), config);
      ready.set(index, candidate);
      tick(index, "warming up");
      const shortest = seen.has(key) ? Math.min(plan.warmup_time_ms, config.warmup_ms)
        : config.warmup_ms;
      const run_ms = await candidate.warmUp(plan, config, Math.max(shortest, 1), world);
      seen.add(key);
      const share = index >= first_reference ? REFERENCE_TIME : 1;
      candidate.planRuns(run_ms, plan, rounds, share);
    });
  }
  tick(-1, "measuring");
  for (let number = 0; number < rounds; number++) {
    let order = [...ready.keys()].sort((a, b) => a - b);
    if (order.length) {
      const start = number % order.length;
      order = [...order.slice(start), ...order.slice(0, start)];
    }
    if (number % 2) order.reverse();
    for (const index of order) await attempt(index, () => ready.get(index).measure(world));
  }
  for (const [index, candidate] of [...ready]) {
    const result = candidate.result();
    await candidate.release();
    ready.delete(index);
    results.set(index, result);
    const runs = plan.profile_runs || (config.provider === "wasm" ? 0 : 1); // who ran the nodes?
    if (runs > 0 && index < first_reference) {
      await attempt(index, async () => {
        tick(index, "tracing");
        listening = true;
        try {
          result.events = await trace(ort, models.get(index).slice(), config, runs, heard);
          result.traced_runs = runs;
        } finally {
          listening = false;
        }
      });
    }
  }
  for (const [index, result] of results) postMessage({ type: "result", index, result });
  postMessage({ type: "done" });
}

const NUMPY = {
  "<f4": "float32", "<f8": "float64", "|u1": "uint8", "|i1": "int8", "<u2": "uint16",
  "<i2": "int16", "<i4": "int32", "<u4": "uint32", "<i8": "int64", "<u8": "uint64", "|b1": "bool",
  "<f2": "float16",
};
const OF_TYPE = Object.fromEntries(Object.entries(NUMPY).map(([dtype, type]) => [type, dtype]));

function tensor(fact, content, shape) {
  const type = NUMPY[fact.dtype];
  if (!type) throw new Error(`arrays of type ${fact.dtype} are not supported by the page`);
  return new ort.Tensor(type, arrayOf(type, content), shape);
}

function packed(name, value, shape) {
  const data = value.data;
  return {
    fact: { name, dtype: OF_TYPE[value.type], shape },
    blob: new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice(),
  };
}

async function run({ command, key, facts, blobs }) {
  if (kept.key !== key) {
    const { model } = await modelOf(0);
    tick(0, "making the session");
    if (kept.session) await kept.session.release();
    kept = { key: "", session: null };
    kept = { key, session: await makeSession(ort, model, config) };
  }
  const session = kept.session;
  tick(0, "running");
  if (command === "run") {
    const feeds = {};
    facts.forEach((fact, i) => { feeds[fact.name] = tensor(fact, blobs[i], fact.shape); });
    const outputs = await session.run(feeds);
    return session.outputNames.map((name) => packed(name, outputs[name], outputs[name].dims));
  }
  const inputs = session.inputMetadata;
  if (inputs.length !== 1) {
    throw new Error(`the model has ${inputs.length} inputs, a batch needs exactly one`);
  }
  const [fact] = facts;
  const withBatch = inputs[0].shape.length === fact.shape.length;
  const [count, ...rest] = fact.shape;
  const size = blobs[0].byteLength / count;
  const output = session.outputNames[0];
  let all = null;
  for (let i = 0; i < count; i++) {
    const item = tensor(fact, blobs[0].slice(i * size, (i + 1) * size),
      withBatch ? [1, ...rest] : rest);
    const value = (await session.run({ [inputs[0].name]: item }))[output];
    const part = packed(output, value, value.dims);
    if (!all) {
      const shape = withBatch ? [count, ...value.dims.slice(1)] : [count, ...value.dims];
      all = { fact: { ...part.fact, shape }, blob: new Uint8Array(part.blob.length * count) };
    }
    all.blob.set(part.blob, i * part.blob.length);
    if (i % 16 === 15) tick(0, "");
  }
  return [all];
}

self.onmessage = async ({ data }) => {
  try {
    if (data.type === "init") await init(data);
    else if (data.type === "model") delivered(data);
    else if (data.type === "visible") {
      visible = data.visible;
      wasHidden = wasHidden || !visible;
      if (visible && shown) shown();
    } else if (data.type === "time") await time(data);
    else if (data.type === "run") {
      try {
        postMessage({ type: "reply", parts: await run(data) });
      } catch (error) {
        postMessage({ type: "reply", reason: words(error) });
      }
    }
  } catch (error) {
    postMessage({ type: "broken", reason: words(error) });
  }
};
