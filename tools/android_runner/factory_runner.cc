// Runs the jobs of the factory's adb transport on a phone, through the C API of ONNX Runtime.
//
//   factory_runner --version
//   factory_runner JOB RESULTS
//
// JOB is a text file, a key and its values a line (docs/formats/adb-job.md); RESULTS gets a line of
// JSON a model. On stdout "tick <model> <phase>" is a sign of life and "done" the end. The rules of
// measuring are those of TimingPlan in factory/devices/base.py. The program ends when its stdin
// does, also in the middle of a run, so that it never outlives the connection.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <dlfcn.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include "onnxruntime_c_api.h"

namespace {

using Clock = std::chrono::steady_clock;

const OrtApi* api = nullptr;
OrtEnv* env = nullptr;

int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch())
      .count();
}

void check(OrtStatus* status) {
  if (status == nullptr) return;
  std::string text = api->GetErrorMessage(status);
  api->ReleaseStatus(status);
  throw std::runtime_error(text);
}

std::string quoted(const std::string& text) {  // a JSON string
  std::string out = "\"";
  for (unsigned char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c < 0x20 || c >= 0x7f) {
      char escape[8];
      snprintf(escape, sizeof escape, "\\u%04x", c < 0x80 ? c : '?');
      out += escape;
    } else {
      out += static_cast<char>(c);
    }
  }
  return out + '"';
}

void tick(int index, const std::string& phase) {
  static int64_t last = 0;
  const int64_t now = now_ns();
  if (phase.empty() && now - last < 500'000'000) return;
  last = now;
  printf("tick %d %s\n", index, phase.c_str());
  fflush(stdout);
}

struct Input {
  std::string name, dtype, file;
  std::vector<int64_t> shape;
};

struct Job {
  std::string kind = "time", provider = "CPUExecutionProvider";
  std::map<std::string, std::string> options;
  std::vector<int> cores;
  std::vector<std::string> models;
  std::vector<Input> inputs;
  std::map<std::string, double> plan;
  int threads = 1, rounds = 1;
  int64_t memory_mb = 0;

  double number(const char* name) const {
    const auto found = plan.find(name);
    if (found == plan.end()) throw std::runtime_error(std::string("the job has no ") + name);
    return found->second;
  }
};

std::string unhex(const std::string& text) {
  std::string out;
  for (size_t i = 0; i + 1 < text.size(); i += 2)
    out += static_cast<char>(std::stoi(text.substr(i, 2), nullptr, 16));
  return out;
}

Job read_job(const char* path) {
  std::ifstream stream(path);
  if (!stream) throw std::runtime_error(std::string("cannot read ") + path);
  Job job;
  std::string line;
  std::getline(stream, line);
  if (line != "factory-job 1") throw std::runtime_error("not a job of version 1: " + line);
  while (std::getline(stream, line)) {
    std::istringstream words(line);
    std::string key, value;
    words >> key;
    if (key == "kind") {
      words >> job.kind;
    } else if (key == "provider") {
      words >> job.provider;
    } else if (key == "option") {  // both in hexadecimal: any text is one word
      words >> value;
      std::string content;
      words >> content;
      job.options[unhex(value)] = unhex(content);
    } else if (key == "core") {
      words >> value;
      job.cores.push_back(std::stoi(value));
    } else if (key == "threads") {
      words >> job.threads;
    } else if (key == "rounds") {
      words >> job.rounds;
    } else if (key == "memory_mb") {
      words >> job.memory_mb;
    } else if (key == "model") {
      words >> value;
      job.models.push_back(value);
    } else if (key == "input") {
      Input input;
      size_t rank = 0;
      words >> value >> input.dtype >> input.file >> rank;
      input.name = unhex(value);
      for (size_t i = 0; i < rank; ++i) {
        int64_t size = 0;
        words >> size;
        input.shape.push_back(size);
      }
      job.inputs.push_back(input);
    } else if (!key.empty()) {
      words >> value;
      job.plan[key] = std::stod(value);
    }
  }
  return job;
}

std::vector<char> read_file(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw std::runtime_error("cannot read " + path);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

struct Type {
  ONNXTensorElementDataType onnx;
  const char* numpy;
  size_t size;
};

const Type kTypes[] = {
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, "<f4", 4},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, "<f2", 2},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE, "<f8", 8},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, "|u1", 1},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, "|i1", 1},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, "<i4", 4},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, "<i8", 8},
    {ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL, "|b1", 1},
};

const Type& type_of(ONNXTensorElementDataType onnx) {
  for (const Type& type : kTypes)
    if (type.onnx == onnx) return type;
  throw std::runtime_error("unsupported type " + std::to_string(onnx));
}

const Type& type_of(const std::string& numpy) {
  for (const Type& type : kTypes)
    if (numpy == type.numpy) return type;
  throw std::runtime_error("unsupported type " + numpy);
}

size_t elements(const std::vector<int64_t>& shape) {
  size_t product = 1;
  for (int64_t size : shape) product *= static_cast<size_t>(size);
  return product;
}

// `optimised`: file for the graph as it will run, its weights in another that nobody reads.
OrtSession* make_session(const std::vector<char>& model, const Job& job, const std::string& trace,
                         const std::string& optimised = "") {
  OrtSessionOptions* options = nullptr;
  check(api->CreateSessionOptions(&options));
  std::unique_ptr<OrtSessionOptions, void (*)(OrtSessionOptions*)> owner(
      options, [](OrtSessionOptions* o) { api->ReleaseSessionOptions(o); });
  check(api->SetSessionGraphOptimizationLevel(options, ORT_ENABLE_ALL));
  check(api->SetSessionExecutionMode(options, ORT_SEQUENTIAL));
  check(api->SetIntraOpNumThreads(options, job.threads));
  check(api->SetInterOpNumThreads(options, 1));
  check(api->SetSessionLogSeverityLevel(options, 4));
  if (job.threads > 1)
    check(api->AddSessionConfigEntry(options, "session.intra_op.allow_spinning", "0"));
  if (!trace.empty()) check(api->EnableProfiling(options, trace.c_str()));
  if (!optimised.empty()) {
    check(api->SetOptimizedModelFilePath(options, optimised.c_str()));
    const std::string prefix = "session.optimized_model_external_initializers_";
    check(api->AddSessionConfigEntry(options, (prefix + "file_name").c_str(), "weights.bin"));
    check(api->AddSessionConfigEntry(options, (prefix + "min_size_in_bytes").c_str(), "64"));
  }
  std::string name = job.provider;
  const std::string suffix = "ExecutionProvider";
  if (name.size() > suffix.size() && name.ends_with(suffix))
    name.resize(name.size() - suffix.size());
  if (name == "Nnapi") {
    using Append = OrtStatus* (*)(OrtSessionOptions*, uint32_t);
    auto append = reinterpret_cast<Append>(
        dlsym(RTLD_DEFAULT, "OrtSessionOptionsAppendExecutionProvider_Nnapi"));
    if (append == nullptr) throw std::runtime_error("this ONNX Runtime has no NNAPI");
    const auto flags = job.options.find("flags");
    check(append(options, flags == job.options.end()
                              ? 0u
                              : static_cast<uint32_t>(std::stoul(flags->second))));
  } else if (name != "CPU") {
    std::string upper;
    for (char c : name) upper += static_cast<char>(toupper(c));
    std::vector<const char*> keys, values;
    for (const auto& [key, value] : job.options) {
      keys.push_back(key.c_str());
      values.push_back(value.c_str());
    }
    check(api->SessionOptionsAppendExecutionProvider(options, upper.c_str(), keys.data(),
                                                     values.data(), keys.size()));
  }
  OrtSession* session = nullptr;
  check(api->CreateSessionFromArray(env, model.data(), model.size(), options, &session));
  return session;
}

struct Value {  // a tensor over memory of ours
  std::vector<char> memory;
  OrtValue* value = nullptr;
  Value() = default;
  Value(const Value&) = delete;
  ~Value() {
    if (value != nullptr) api->ReleaseValue(value);
  }
  void make(const Type& type, const std::vector<int64_t>& shape) {
    OrtMemoryInfo* info = nullptr;
    check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &info));
    OrtStatus* status = api->CreateTensorWithDataAsOrtValue(
        info, memory.data(), memory.size(), shape.data(), shape.size(), type.onnx, &value);
    api->ReleaseMemoryInfo(info);
    check(status);
  }
};

struct Meta {
  std::string name;
  ONNXTensorElementDataType type;
  std::vector<int64_t> shape;
};

std::vector<Meta> metas(OrtSession* session, bool inputs) {
  OrtAllocator* allocator = nullptr;
  check(api->GetAllocatorWithDefaultOptions(&allocator));
  size_t count = 0;
  check(inputs ? api->SessionGetInputCount(session, &count)
               : api->SessionGetOutputCount(session, &count));
  std::vector<Meta> found;
  for (size_t i = 0; i < count; ++i) {
    char* name = nullptr;
    check(inputs ? api->SessionGetInputName(session, i, allocator, &name)
                 : api->SessionGetOutputName(session, i, allocator, &name));
    Meta meta;
    meta.name = name;
    check(api->AllocatorFree(allocator, name));
    OrtTypeInfo* info = nullptr;
    check(inputs ? api->SessionGetInputTypeInfo(session, i, &info)
                 : api->SessionGetOutputTypeInfo(session, i, &info));
    std::unique_ptr<OrtTypeInfo, void (*)(OrtTypeInfo*)> owner(
        info, [](OrtTypeInfo* t) { api->ReleaseTypeInfo(t); });
    const OrtTensorTypeAndShapeInfo* tensor = nullptr;
    check(api->CastTypeInfoToTensorInfo(info, &tensor));
    if (tensor == nullptr) throw std::runtime_error(meta.name + " is not a tensor");
    check(api->GetTensorElementType(tensor, &meta.type));
    size_t rank = 0;
    check(api->GetDimensionsCount(tensor, &rank));
    meta.shape.resize(rank);
    check(api->GetDimensions(tensor, meta.shape.data(), rank));
    found.push_back(meta);
  }
  return found;
}

void fill_random(Value& value, const Meta& meta) {
  for (int64_t size : meta.shape)
    if (size <= 0) throw std::runtime_error("input '" + meta.name + "' has a dynamic shape");
  const Type& type = type_of(meta.type);
  const size_t count = elements(meta.shape);
  value.memory.assign(count * type.size, 0);
  std::mt19937 random(0);
  std::normal_distribution<float> normal;
  if (type.onnx == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
    auto* numbers = reinterpret_cast<float*>(value.memory.data());
    for (size_t i = 0; i < count; ++i) numbers[i] = normal(random);
  } else if (type.onnx == ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE) {
    auto* numbers = reinterpret_cast<double*>(value.memory.data());
    for (size_t i = 0; i < count; ++i) numbers[i] = normal(random);
  } else if (type.onnx == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) {
    auto* bits = reinterpret_cast<uint16_t*>(value.memory.data());
    for (size_t i = 0; i < count; ++i)  // sign, exponents of 0.25 to 4, any fraction
      bits[i] = static_cast<uint16_t>((random() & 0x83ff) | ((13 + random() % 4) << 10));
  } else if (type.onnx == ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL) {
    for (char& c : value.memory) c = static_cast<char>(random() & 1);
  } else if (type.size == 1) {
    for (char& c : value.memory) c = static_cast<char>(random());
  }
  value.make(type, meta.shape);
}

double median(std::vector<int64_t> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n % 2 ? static_cast<double>(values[n / 2])
               : (static_cast<double>(values[n / 2 - 1]) + static_cast<double>(values[n / 2])) / 2;
}

class Candidate {  // one model: its session, its bound buffers, its samples
 public:
  Candidate(const std::vector<char>& model, const Job& job, const std::string& trace,
            const std::string& optimised = "") {
    const int64_t start = now_ns();
    session_ = make_session(model, job, trace, optimised);
    session_ms = static_cast<double>(now_ns() - start) / 1e6;
    try {
      bind();
    } catch (...) {
      release();
      throw;
    }
  }
  Candidate(const Candidate&) = delete;
  ~Candidate() { release(); }

  void run(int count, std::vector<int64_t>* taken) {
    for (int i = 0; i < count; ++i) {
      const int64_t start = now_ns();
      check(api->RunWithBinding(session_, nullptr, binding_));
      const int64_t end = now_ns();
      if (taken != nullptr) taken->push_back(end - start);
    }
  }

  double warm_up(const Job& job, int index) {  // the last window's median, ns
    const int64_t deadline =
        now_ns() + static_cast<int64_t>(job.number("warmup_time_ms") * 1e6);
    double before = 0;
    while (true) {
      std::vector<int64_t> window;
      while (window.size() < static_cast<size_t>(job.number("warmup_runs"))) {
        run(1, &window);
        tick(index, "");
        if (now_ns() >= deadline) break;
      }
      const double middle = std::max(median(window), 1.0);
      if (std::abs(middle - before) <= job.number("warmup_tolerance") * before) return middle;
      if (now_ns() >= deadline) return middle;
      before = middle;
    }
  }

  void plan_runs(double median_ns, const Job& job) {
    const double median_ms = median_ns / 1e6;
    double runs = std::max(std::ceil(job.number("min_time_ms") / median_ms), job.number("min_runs"));
    runs = std::min(runs, job.number("max_runs"));
    const double affordable = std::max(std::floor(job.number("max_time_ms") / median_ms), 3.0);
    runs_per_round = std::max(1, static_cast<int>(std::ceil(std::min(runs, affordable) / job.rounds)));
  }

  std::string end_trace() {
    OrtAllocator* allocator = nullptr;
    check(api->GetAllocatorWithDefaultOptions(&allocator));
    char* path = nullptr;
    check(api->SessionEndProfiling(session_, allocator, &path));
    std::string found = path;
    check(api->AllocatorFree(allocator, path));
    return found;
  }

  double session_ms = 0;
  int runs_per_round = 1;
  std::vector<int64_t> samples;

 private:
  void bind() {
    check(api->CreateIoBinding(session_, &binding_));
    for (const Meta& meta : metas(session_, true)) {
      values_.push_back(std::make_unique<Value>());
      fill_random(*values_.back(), meta);
      check(api->BindInput(binding_, meta.name.c_str(), values_.back()->value));
    }
    OrtMemoryInfo* info = nullptr;
    check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &info));
    std::unique_ptr<OrtMemoryInfo, void (*)(OrtMemoryInfo*)> owner(
        info, [](OrtMemoryInfo* i) { api->ReleaseMemoryInfo(i); });
    for (const Meta& meta : metas(session_, false))
      check(api->BindOutputToDevice(binding_, meta.name.c_str(), info));
  }

  void release() {
    if (binding_ != nullptr) api->ReleaseIoBinding(binding_);
    if (session_ != nullptr) api->ReleaseSession(session_);
    binding_ = nullptr;
    session_ = nullptr;
  }

  OrtSession* session_ = nullptr;
  OrtIoBinding* binding_ = nullptr;
  std::vector<std::unique_ptr<Value>> values_;
};

void failed(std::ofstream& results, size_t index, const std::string& reason) {
  results << "{\"index\": " << index << ", \"status\": \"failed\", \"reason\": "
          << quoted(reason.substr(0, 400)) << "}\n";
}

void time_models(const Job& job, std::ofstream& results) {
  const size_t count = job.models.size();
  std::vector<std::unique_ptr<Candidate>> ready(count);
  std::vector<std::string> reasons(count);
  const auto attempt = [&](size_t index, auto work) {
    try {
      work();
    } catch (const std::exception& error) {
      ready[index].reset();
      reasons[index] = error.what()[0] ? error.what() : "no reason given";
    }
  };
  for (size_t i = 0; i < count; ++i)
    attempt(i, [&] {
      tick(static_cast<int>(i), "making the session");
      ready[i] = std::make_unique<Candidate>(read_file(job.models[i]), job, "");
      tick(static_cast<int>(i), "warming up");
      ready[i]->plan_runs(ready[i]->warm_up(job, static_cast<int>(i)), job);
    });
  for (int round = 0; round < job.rounds; ++round) {
    std::vector<size_t> order;
    for (size_t i = 0; i < count; ++i)
      if (ready[i]) order.push_back(i);
    if (!order.empty())
      std::rotate(order.begin(),
                  order.begin() + static_cast<std::ptrdiff_t>(round % order.size()), order.end());
    if (round % 2) std::reverse(order.begin(), order.end());
    for (size_t i : order)
      attempt(i, [&] {
        if (count > 1 && job.rounds > 1) ready[i]->run(1, nullptr);  // finds cold caches
        for (int run = 0; run < ready[i]->runs_per_round; ++run) {
          ready[i]->run(1, &ready[i]->samples);
          tick(static_cast<int>(i), "");
        }
      });
  }
  const int traced = static_cast<int>(job.number("profile_runs"));
  const int trace_warmup = static_cast<int>(job.number("trace_warmup_runs"));
  const bool wanted = job.plan.count("optimised_graph") && job.number("optimised_graph") > 0;
  for (size_t i = 0; i < count; ++i) {
    std::string trace, graph;
    if (ready[i] && traced > 0)
      attempt(i, [&] {
        tick(static_cast<int>(i), "tracing");
        const std::vector<char> model = read_file(job.models[i]);
        const std::string prefix = "trace" + std::to_string(i);
        std::unique_ptr<Candidate> candidate;
        if (wanted) {
          graph = "optimised" + std::to_string(i) + ".onnx";
          try {
            candidate = std::make_unique<Candidate>(model, job, prefix, graph);
          } catch (const std::exception&) {  // a provider that compiles nodes cannot write them
            graph.clear();
          }
        }
        if (!candidate) candidate = std::make_unique<Candidate>(model, job, prefix);
        candidate->run(trace_warmup + traced, nullptr);
        trace = candidate->end_trace();
      });
    if (!ready[i]) {
      failed(results, i, reasons[i]);
      continue;
    }
    results << "{\"index\": " << i << ", \"status\": \"ok\", \"session_ms\": "
            << ready[i]->session_ms << ", \"trace\": " << quoted(trace)
            << ", \"optimised\": " << quoted(graph) << ", \"samples_ns\": [";
    for (size_t k = 0; k < ready[i]->samples.size(); ++k)
      results << (k ? "," : "") << ready[i]->samples[k];
    results << "]}\n";
  }
}

void run_model(const Job& job, std::ofstream& results) {
  const bool batch = job.kind == "batch";
  tick(0, "making the session");
  OrtSession* session = make_session(read_file(job.models.at(0)), job, "");
  std::unique_ptr<OrtSession, void (*)(OrtSession*)> owner(
      session, [](OrtSession* s) { api->ReleaseSession(s); });
  const std::vector<Meta> outputs = metas(session, false), inputs = metas(session, true);
  if (batch && (inputs.size() != 1 || job.inputs.size() != 1))
    throw std::runtime_error("the model has " + std::to_string(inputs.size()) +
                             " inputs, a batch needs exactly one");
  const size_t repeats = batch ? static_cast<size_t>(job.inputs[0].shape.at(0)) : 1;
  const size_t kept = batch ? 1 : outputs.size();
  std::vector<std::ofstream> files;
  std::vector<std::string> facts(kept);
  for (size_t o = 0; o < kept; ++o)
    files.emplace_back("out" + std::to_string(o) + ".bin", std::ios::binary);
  std::vector<std::vector<char>> contents;
  for (const Input& input : job.inputs) contents.push_back(read_file(input.file));
  for (size_t item = 0; item < repeats; ++item) {
    tick(0, item ? "" : "running");
    std::vector<std::unique_ptr<Value>> values;
    std::vector<const OrtValue*> fed;
    std::vector<const char*> in_names, out_names;
    for (size_t i = 0; i < job.inputs.size(); ++i) {
      const Input& input = job.inputs[i];
      const Type& type = type_of(input.dtype);
      std::vector<int64_t> shape = input.shape;
      size_t offset = 0;
      if (batch) {
        shape.erase(shape.begin());
        if (inputs[0].shape.size() == input.shape.size()) shape.insert(shape.begin(), 1);
        offset = item * elements(shape) * type.size;
      }
      const size_t size = elements(shape) * type.size;
      if (offset + size > contents[i].size()) throw std::runtime_error("an input file is too short");
      values.push_back(std::make_unique<Value>());
      const auto start = contents[i].begin() + static_cast<std::ptrdiff_t>(offset);
      values.back()->memory.assign(start, start + static_cast<std::ptrdiff_t>(size));
      values.back()->make(type, shape);
      fed.push_back(values.back()->value);
      in_names.push_back(batch ? inputs[0].name.c_str() : input.name.c_str());
    }
    for (size_t o = 0; o < kept; ++o) out_names.push_back(outputs[o].name.c_str());
    std::vector<OrtValue*> got(kept, nullptr);
    check(api->Run(session, nullptr, in_names.data(), fed.data(), fed.size(), out_names.data(),
                   kept, got.data()));
    for (size_t o = 0; o < kept; ++o) {
      std::unique_ptr<OrtValue, void (*)(OrtValue*)> value(
          got[o], [](OrtValue* v) { api->ReleaseValue(v); });
      OrtTensorTypeAndShapeInfo* info = nullptr;
      check(api->GetTensorTypeAndShape(got[o], &info));
      std::unique_ptr<OrtTensorTypeAndShapeInfo, void (*)(OrtTensorTypeAndShapeInfo*)> held(
          info, [](OrtTensorTypeAndShapeInfo* t) { api->ReleaseTensorTypeAndShapeInfo(t); });
      ONNXTensorElementDataType kind;
      check(api->GetTensorElementType(info, &kind));
      size_t rank = 0;
      check(api->GetDimensionsCount(info, &rank));
      std::vector<int64_t> shape(rank);
      check(api->GetDimensions(info, shape.data(), rank));
      void* data = nullptr;
      check(api->GetTensorMutableData(got[o], &data));
      const Type& type = type_of(kind);
      files[o].write(static_cast<const char*>(data),
                     static_cast<std::streamsize>(elements(shape) * type.size));
      std::string dims;
      for (int64_t size : shape) dims += (dims.empty() ? "" : ", ") + std::to_string(size);
      facts[o] = "{\"name\": " + quoted(outputs[o].name) + ", \"dtype\": \"" + type.numpy +
                 "\", \"shape\": [" + dims + "], \"file\": \"out" + std::to_string(o) + ".bin\"}";
    }
  }
  results << "{\"index\": 0, \"status\": \"ok\", ";
  if (batch)
    results << "\"joined\": "
            << (inputs[0].shape.size() == job.inputs[0].shape.size() ? "true, " : "false, ");
  results << "\"outputs\": [";
  for (size_t o = 0; o < kept; ++o) results << (o ? ", " : "") << facts[o];
  results << "]}\n";
}

std::string prepare_process(const Job& job) {  // what could not be done, "" if all could
  if (job.memory_mb > 0) {
    long pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const rlim_t bytes = static_cast<rlim_t>(pages) * static_cast<rlim_t>(sysconf(_SC_PAGESIZE)) +
                         (static_cast<rlim_t>(job.memory_mb) << 20);
    const rlimit limit = {bytes, bytes};
    setrlimit(RLIMIT_AS, &limit);
  }
  if (job.cores.empty()) return "pinning is switched off in the profile";
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int core : job.cores) CPU_SET(core, &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0)
    return std::string("pinning failed: ") + strerror(errno);
  return "";
}

void end_with_stdin() {
  std::thread([] {
    char buffer[256];
    while (read(0, buffer, sizeof buffer) > 0) {
    }
    _exit(9);
  }).detach();
}

void tell_version() {
  char** names = nullptr;
  int count = 0;
  check(api->GetAvailableProviders(&names, &count));
  std::string listed;
  for (int i = 0; i < count; ++i) listed += (i ? ", " : "") + quoted(names[i]);
  check(api->ReleaseAvailableProviders(names, count));
  printf("{\"runner\": 1, \"runtime_version\": %s, \"providers\": [%s]}\n",
         quoted(OrtGetApiBase()->GetVersionString()).c_str(), listed.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (api == nullptr) {
    fprintf(stderr, "this ONNX Runtime (%s) is older than the headers of the runner\n",
            OrtGetApiBase()->GetVersionString());
    return 3;
  }
  try {
    if (argc == 2 && std::string(argv[1]) == "--version") {
      tell_version();
      return 0;
    }
    if (argc != 3) {
      fprintf(stderr, "usage: factory_runner JOB RESULTS\n");
      return 2;
    }
    end_with_stdin();
    const Job job = read_job(argv[1]);
    const std::string note = prepare_process(job);
    check(api->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "factory", &env));
    std::ofstream results(argv[2], std::ios::trunc);
    results << "{\"pin_note\": " << quoted(note) << "}\n";
    if (job.kind == "time") {
      time_models(job, results);
    } else {
      try {
        run_model(job, results);
      } catch (const std::exception& error) {
        failed(results, 0, error.what());
      }
    }
    results.close();
    if (!results) throw std::runtime_error("the results cannot be written");
    printf("done\n");
    fflush(stdout);
    _exit(0);  // the thread that waits for stdin would not let main return
  } catch (const std::exception& error) {
    fprintf(stderr, "%s\n", error.what());
    return 4;
  }
}
