// What the page can tell about the device it runs on.

// Smallest modules that use a feature: a v128 constant, and i32x4.relaxed_trunc_f32x4_s.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0,
  65, 0, 253, 15, 253, 98, 11];
const RELAXED = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 11, 1, 9, 0,
  65, 0, 253, 15, 253, 129, 2, 11];

function validates(bytes) {
  try {
    return WebAssembly.validate(new Uint8Array(bytes));
  } catch {
    return false;
  }
}

// The smallest step of the clock, in milliseconds.
export function timerTick() {
  let smallest = Infinity;
  const end = performance.now() + 20;
  let last = performance.now();
  while (last < end) {
    const now = performance.now();
    if (now > last) smallest = Math.min(smallest, now - last);
    last = now;
  }
  return Number.isFinite(smallest) ? Math.max(smallest, 1e-4) : 1;
}

async function userAgentFacts() {
  const data = navigator.userAgentData;
  if (!data) return {};
  try {
    const high = await data.getHighEntropyValues(
      ["model", "platform", "platformVersion", "architecture", "bitness", "fullVersionList"]);
    return { ...high, mobile: data.mobile };
  } catch {
    return { platform: data.platform, mobile: data.mobile };
  }
}

async function gpuFacts() {
  if (!navigator.gpu) return null;
  try {
    const adapter = await navigator.gpu.requestAdapter();
    if (!adapter) return null;
    const info = adapter.info || {};
    return {
      vendor: String(info.vendor || ""),
      architecture: String(info.architecture || ""),
      description: String(info.description || ""),
      software: Boolean(info.isFallbackAdapter || adapter.isFallbackAdapter),
    };
  } catch {
    return null;
  }
}

export async function deviceFacts() {
  return {
    user_agent: navigator.userAgent,
    hints: await userAgentFacts(),
    cores: navigator.hardwareConcurrency || 1,
    memory_gb: navigator.deviceMemory || null,
    isolated: Boolean(globalThis.crossOriginIsolated),
    secure: Boolean(globalThis.isSecureContext),
    simd: validates(SIMD),
    relaxed_simd: validates(RELAXED),
    shared_memory: typeof SharedArrayBuffer !== "undefined",
    webgpu: await gpuFacts(),
    webnn: "ml" in navigator,
    tick_ms: timerTick(),
    touch: navigator.maxTouchPoints || 0,
  };
}
