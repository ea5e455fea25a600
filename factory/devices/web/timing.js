// Timing models with ONNX Runtime Web: sessions, warm-up, rounds, the trace. Runs in the worker.
// The rules are those of TimingPlan (factory/devices/base.py); what differs in a browser: runs are
// timed in batches when the clock is coarse, and a new model is warmed up until the medians of
// three windows agree, because WebAssembly is optimised late and in steps.

export const TICKS_PER_SAMPLE = 40; // a sample is at least so many ticks of the clock
const FEWEST_RUNS = 3;
export const REFERENCE_TIME = 1 / 3; // of the time and runs of a candidate
const WINDOW_MS = 40;
const LONGEST_WARMUP = 10; // times the shortest
const SLICE_MS = 60; // runs between two looks at the outside world
export const TRACE_WARMUP_RUNS = 3;

const ARRAYS = {
  float32: Float32Array, float64: Float64Array, uint8: Uint8Array, int8: Int8Array,
  uint16: Uint16Array, int16: Int16Array, int32: Int32Array, uint32: Uint32Array,
  int64: BigInt64Array, uint64: BigUint64Array, bool: Uint8Array, float16: Uint16Array,
};

function quantile(sorted, q) { // as numpy's: linear between the neighbours
  const at = (sorted.length - 1) * q;
  const low = Math.floor(at);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low] + (sorted[high] - sorted[low]) * (at - low);
}

export const median = (values) => quantile([...values].sort((a, b) => a - b), 0.5);

export function arrayOf(type, content, count) {
  const Kind = ARRAYS[type];
  if (!Kind) throw new Error(`tensors of type ${type} are not supported by the page`);
  return content === undefined ? new Kind(count) : new Kind(content);
}

function randomTensor(ort, meta, next) {
  const fixed = meta.shape.every((size) => typeof size === "number" && size > 0);
  if (!fixed) throw new Error(`input '${meta.name}' has a dynamic shape [${meta.shape}]`);
  const count = meta.shape.reduce((a, b) => a * b, 1);
  const data = arrayOf(meta.type, undefined, count);
  for (let i = 0; i < count; i++) {
    const u = next(); // 0 to 1
    if (meta.type === "float32" || meta.type === "float64") data[i] = (u - 0.5) * 3.46; // variance 1
    else if (meta.type === "float16") data[i] = 0x3400 + Math.floor(u * 0x800);
    else if (meta.type === "bool") data[i] = u < 0.5 ? 0 : 1;
    else if (meta.type === "uint8" || meta.type === "int8") data[i] = Math.floor(u * 256);
  }
  return new ort.Tensor(meta.type, data, meta.shape);
}

function randomNumbers() { // xorshift32 with a fixed seed: the same inputs on every device
  let state = 2463534242;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) / 4294967296;
  };
}

export async function makeSession(ort, model, config, profiling = false) {
  // The arena would hand a model's buffers on to the next one; the default is what apps get.
  return ort.InferenceSession.create(model, {
    executionProviders: [{ name: config.provider, ...config.provider_options }],
    graphOptimizationLevel: "all",
    executionMode: "sequential",
    enableProfiling: profiling,
    logSeverityLevel: 3,
  });
}

export class Candidate {
  static async make(ort, model, config, profiling = false) {
    const self = new Candidate();
    const start = performance.now();
    self.session = await makeSession(ort, model, config, profiling);
    self.session_ms = performance.now() - start;
    self.feeds = {};
    try {
      const next = randomNumbers();
      for (const meta of self.session.inputMetadata) {
        self.feeds[meta.name] = randomTensor(ort, meta, next);
      }
    } catch (error) {
      await self.release();
      throw error;
    }
    self.samples_ms = [];
    self.runs = 0;
    self.batch = 1;
    self.samples_per_round = 1;
    return self;
  }

  async run(count) { // milliseconds that one of `count` runs takes
    const { session, feeds } = this;
    const start = performance.now();
    for (let i = 0; i < count; i++) await session.run(feeds);
    return (performance.now() - start) / count;
  }

  setBatch(run_ms, tick_ms) {
    const wanted = (TICKS_PER_SAMPLE * tick_ms) / Math.max(run_ms, tick_ms / 50);
    this.batch = Math.max(1, Math.ceil(wanted));
  }

  async warmUp(plan, config, shortest_ms, world) {
    const began = performance.now();
    this.setBatch(await this.run(1), config.tick_ms); // the first run is slow: a small batch
    const medians = [];
    for (;;) {
      const window = [];
      const opened = performance.now();
      while (window.length < plan.warmup_runs || performance.now() - opened < WINDOW_MS) {
        window.push(await this.run(this.batch));
        if (performance.now() - began > LONGEST_WARMUP * shortest_ms) break;
      }
      await world.look();
      const middle = Math.max(median(window), config.tick_ms / 1000);
      this.setBatch(middle, config.tick_ms);
      medians.push(middle);
      const spent = performance.now() - began;
      const last = medians.slice(-3);
      const settled = last.length === 3
        && Math.max(...last) - Math.min(...last) <= plan.warmup_tolerance * Math.min(...last);
      if ((settled && spent >= shortest_ms) || spent > LONGEST_WARMUP * shortest_ms) return middle;
    }
  }

  planRuns(run_ms, plan, rounds, share = 1) {
    const wanted = Math.min(
      Math.max(Math.ceil(plan.min_time_ms / run_ms), plan.min_runs), plan.max_runs);
    const affordable = Math.max(Math.floor(plan.max_time_ms / run_ms), FEWEST_RUNS);
    const runs = share * Math.min(wanted, affordable);
    this.samples_per_round = Math.max(1, Math.ceil(runs / rounds / this.batch));
  }

  async measure(world) {
    await this.run(1); // the first run after another model finds cold caches
    for (let left = this.samples_per_round; left > 0;) {
      const taken = [];
      const opened = performance.now();
      while (left > 0 && performance.now() - opened < SLICE_MS) {
        taken.push(await this.run(this.batch));
        left -= 1;
      }
      if (await world.look()) { // the page was hidden meanwhile: these do not count
        left += taken.length;
      } else {
        this.samples_ms.push(...taken);
        this.runs += taken.length * this.batch;
      }
      if (left > 0) await this.run(1);
    }
  }

  result() {
    const sorted = [...this.samples_ms].sort((a, b) => a - b);
    return {
      status: "ok",
      median_ms: quantile(sorted, 0.5),
      p10_ms: quantile(sorted, 0.1),
      p90_ms: quantile(sorted, 0.9),
      min_ms: sorted[0],
      mean_ms: sorted.reduce((sum, value) => sum + value, 0) / sorted.length,
      runs: this.runs,
      session_ms: this.session_ms,
      batch: this.batch,
    };
  }

  async release() {
    await this.session.release();
  }
}

// Node events of a traced session of its own: name, operator, provider, microseconds.
export async function trace(ort, model, config, runs, heard) {
  const candidate = await Candidate.make(ort, model, config, true);
  heard.length = 0;
  try {
    for (let i = 0; i < TRACE_WARMUP_RUNS + runs; i++) await candidate.session.run(candidate.feeds);
    candidate.session.endProfiling();
    await new Promise((resolve) => setTimeout(resolve, 0)); // WASM threads print through messages
  } finally {
    await candidate.release();
  }
  const text = heard.join("\n");
  const from = text.indexOf("[");
  const to = text.lastIndexOf("]");
  heard.length = 0;
  if (from < 0 || to < from) throw new Error("the runtime wrote no trace");
  return JSON.parse(text.slice(from, to + 1))
    .filter((event) => event.cat === "Node" && event.name.endsWith("_kernel_time"))
    .map((event) => ({
      cat: "Node",
      name: event.name,
      dur: event.dur,
      args: { op_name: event.args.op_name, provider: event.args.provider },
    }));
}
