// asma-edge: model files at work, by the C library alone.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "edge/asma_edge.h"

namespace {

constexpr const char* usage = R"(usage: asma-edge VERB MODEL [FILE] [OPTIONS]

asma-edge info MODEL             what the file holds, and the instruction set that would run it
asma-edge classify MODEL FILE    the likeliest classes of a recording
asma-edge run MODEL FILE         logits of prepared clips, a line each
asma-edge bench MODEL            times of one clip, and, where the network is causal, of a stream's frames

FILE holds float32 numbers in the order of this machine, and nothing else: a recording (bodies, frames, joints,
channels), prepared clips (clips, bodies, frames, joints, channels); - is standard input.

  -m BODIES   of a recording or clip (1; bench: 2)
  -t FRAMES   of a prepared clip (50)
  -k TOP      classes to tell (5)
  -j THREADS  that share the work (1)
  -n RUNS     to time (200)
)";

struct Options {
    std::int64_t bodies = 0, frames = 50, top = 5, threads = 1, runs = 200;
};

struct Failure : std::runtime_error {
    using std::runtime_error::runtime_error;
};

std::int64_t number_of(char option, const char* text, std::int64_t most) {
    char* end = nullptr;
    const long long number = std::strtoll(text, &end, 10);
    if (end == text || *end || number < 1 || number > most)
        throw Failure(std::string("-") + option + " must be a number from 1 to " + std::to_string(most) + ", got " +
                      text);
    return number;
}

Options options_of(int count, char** given) {
    constexpr std::int64_t most = 1'000'000;
    Options options;
    opterr = 0;
    for (int option = 0; (option = getopt(count, given, "m:t:k:j:n:")) != -1;) {
        if (option == '?')
            throw Failure(std::string("no option -") + static_cast<char>(optopt) +
                          ", or no number after it; asma-edge -h tells them");
        const std::int64_t number = number_of(static_cast<char>(option), optarg, option == 'j' ? 256 : most);
        (option == 'm'   ? options.bodies
         : option == 't' ? options.frames
         : option == 'k' ? options.top
         : option == 'j' ? options.threads
                         : options.runs) = number;
    }
    return options;
}

using ModelPointer = std::unique_ptr<asma_edge_model, decltype(&asma_edge_free)>;
using SessionPointer = std::unique_ptr<asma_edge_session, decltype(&asma_edge_close)>;
using StreamPointer = std::unique_ptr<asma_edge_stream, decltype(&asma_edge_stream_close)>;

// A model, a session of it, and the sentences of what fails.
class Runner {
public:
    Runner(const char* path, std::int64_t frames, std::int64_t bodies, std::int64_t threads)
        : model_(asma_edge_load(path, frames, error_, sizeof error_), asma_edge_free),
          session_(nullptr, asma_edge_close) {
        check(model_ != nullptr);
        session_.reset(asma_edge_open(model_.get(), 1, bodies, static_cast<int>(threads), error_, sizeof error_));
        check(session_ != nullptr);
    }

    const asma_edge_model* model() const { return model_.get(); }
    std::int64_t classes() const { return asma_edge_classes(model_.get()); }
    std::int64_t frame() const { return asma_edge_joints(model_.get()) * asma_edge_channels(model_.get()); }

    std::vector<float> run(const float* clip, std::int64_t bodies, std::int64_t frames) {
        std::vector<float> logits(static_cast<std::size_t>(classes()));
        check(!asma_edge_run(session_.get(), clip, 1, bodies, frames, logits.data(), error_, sizeof error_));
        return logits;
    }

    // One of mode continual; null, with the reason, where the model does not allow it.
    StreamPointer stream(bool spread, std::string& reason) {
        asma_edge_stream_settings settings = asma_edge_stream_defaults();
        settings.mode = ASMA_EDGE_CONTINUAL, settings.spread = spread;
        StreamPointer opened(asma_edge_stream_open(session_.get(), &settings, error_, sizeof error_),
                             asma_edge_stream_close);
        if (!opened) reason = error_;
        return opened;
    }

    void push(asma_edge_stream* stream, const float* frame, std::int64_t bodies, float* probabilities) {
        std::int64_t named = 0;
        check(asma_edge_stream_push(stream, frame, bodies, nullptr, nullptr, probabilities, &named, error_,
                                    sizeof error_) >= 0);
    }

    std::vector<float> classify(const float* recording, std::int64_t bodies, std::int64_t frames) {
        std::vector<float> chances(static_cast<std::size_t>(classes()));
        check(!asma_edge_classify(session_.get(), recording, bodies, frames, chances.data(), error_, sizeof error_));
        return chances;
    }

private:
    void check(bool fine) const {
        if (!fine) throw Failure(error_);
    }

    char error_[512] = "";
    ModelPointer model_;
    SessionPointer session_;
};

// The numbers of a file; a whole number of `item`s, at least one.
std::vector<float> numbers_of(const std::string& path, std::int64_t item) {
    std::ifstream file;
    if (path != "-") file.open(path, std::ios::binary);
    std::istream& from = path == "-" ? std::cin : file;
    const std::vector<char> bytes{std::istreambuf_iterator<char>(from), {}};
    if (!from || bytes.empty()) throw Failure(path + ": cannot be read, or is empty");
    const std::size_t size = static_cast<std::size_t>(item) * sizeof(float);
    if (bytes.size() % size)
        throw Failure(path + ": must hold a multiple of " + std::to_string(size) + " bytes, got " +
                      std::to_string(bytes.size()));
    std::vector<float> numbers(bytes.size() / sizeof(float));
    std::memcpy(numbers.data(), bytes.data(), bytes.size());
    return numbers;
}

void classify(const char* path, const std::string& file, const Options& options) {
    const std::int64_t bodies = std::max<std::int64_t>(1, options.bodies);
    const std::int64_t frame = Runner(path, 1, 1, 1).frame();
    const std::vector<float> recording = numbers_of(file, bodies * frame);
    const std::int64_t frames = static_cast<std::int64_t>(recording.size()) / (bodies * frame);
    Runner runner(path, frames, bodies, options.threads);
    const std::vector<float> chances = runner.classify(recording.data(), bodies, frames);
    std::vector<std::int64_t> order(chances.size());
    for (std::size_t k = 0; k < order.size(); ++k) order[k] = static_cast<std::int64_t>(k);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
        return chances[static_cast<std::size_t>(a)] > chances[static_cast<std::size_t>(b)];
    });
    order.resize(static_cast<std::size_t>(std::min(options.top, runner.classes())));
    for (const std::int64_t k : order)
        std::printf("%6.2f %%  %s\n", 100.0 * static_cast<double>(chances[static_cast<std::size_t>(k)]),
                    asma_edge_class_name(runner.model(), k));
}

void run(const char* path, const std::string& file, const Options& options) {
    const std::int64_t bodies = std::max<std::int64_t>(1, options.bodies);
    Runner runner(path, options.frames, bodies, options.threads);
    const std::int64_t clip = bodies * options.frames * runner.frame();
    const std::vector<float> clips = numbers_of(file, clip);
    for (std::size_t at = 0; at < clips.size(); at += static_cast<std::size_t>(clip)) {
        const std::vector<float> logits = runner.run(clips.data() + at, bodies, options.frames);
        for (std::size_t k = 0; k < logits.size(); ++k)
            std::printf("%s%.9g", k ? " " : "", static_cast<double>(logits[k]));
        std::printf("\n");
    }
}

using Clock = std::chrono::steady_clock;

double milliseconds_since(Clock::time_point began) {
    return std::chrono::duration<double, std::milli>(Clock::now() - began).count();
}

// The most memory that this process has held, from Linux; 0 elsewhere.
double peak_megabytes() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);)
        if (line.rfind("VmHWM:", 0) == 0) return std::strtod(line.c_str() + 6, nullptr) / 1024;
    return 0;
}

// Frames of a continual stream, once it has looked back as far as it does.
void bench_stream(Runner& runner, const std::vector<float>& clip, std::int64_t bodies, const Options& options) {
    constexpr std::int64_t frames_a_run = 10, warm = 500;
    for (const bool spread : {false, true}) {
        std::string reason;
        const StreamPointer stream = runner.stream(spread, reason);
        if (!stream) {
            std::printf("no continual stream: %s\n", reason.c_str());
            return;
        }
        std::vector<float> probabilities(static_cast<std::size_t>(runner.classes()));
        std::vector<double> times(static_cast<std::size_t>(frames_a_run * options.runs));
        const auto push = [&](std::int64_t t) {
            const float* const frame = clip.data() + t % options.frames * bodies * runner.frame();
            runner.push(stream.get(), frame, bodies, probabilities.data());
        };
        for (std::int64_t t = 0; t < warm; ++t) push(t);
        double sum = 0;
        for (std::size_t t = 0; t < times.size(); ++t) {
            const Clock::time_point start = Clock::now();
            push(static_cast<std::int64_t>(t));
            sum += times[t] = milliseconds_since(start);
        }
        std::sort(times.begin(), times.end());
        std::printf("continual%s, each frame: mean %.4f ms, median %.4f ms, longest %.4f ms\n",
                    spread ? ", spread" : "", sum / static_cast<double>(times.size()), times[times.size() / 2],
                    times.back());
    }
}

void bench(const char* path, const Options& options) {
    const std::int64_t bodies = options.bodies ? options.bodies : 2;
    const Clock::time_point began = Clock::now();
    Runner runner(path, options.frames, bodies, options.threads);
    std::vector<float> clip(static_cast<std::size_t>(bodies * options.frames * runner.frame()));
    std::mt19937 generator(0);
    for (float& one : clip) one = static_cast<float>(generator()) * 0x1p-32F - 0.5F;
    runner.run(clip.data(), bodies, options.frames);
    const double first = milliseconds_since(began);
    std::vector<double> times(static_cast<std::size_t>(options.runs));
    for (double& time : times) {
        const Clock::time_point start = Clock::now();
        runner.run(clip.data(), bodies, options.frames);
        time = milliseconds_since(start);
    }
    std::sort(times.begin(), times.end());
    const auto at = [&](double share) {
        return times[static_cast<std::size_t>(share * static_cast<double>(times.size() - 1) + 0.5)];
    };
    std::printf("%s, %lld threads, %lld bodies x %lld frames, %lld runs\n", asma_edge_instruction_set(),
                static_cast<long long>(options.threads), static_cast<long long>(bodies),
                static_cast<long long>(options.frames), static_cast<long long>(options.runs));
    std::printf("p50 %.3f ms, p99 %.3f ms; loaded and run once after %.1f ms; %.1f MiB at most\n", at(0.5), at(0.99),
                first, peak_megabytes());
    bench_stream(runner, clip, bodies, options);
}

void info(const char* path) {
    Runner runner(path, 1, 1, 1);
    const char* const isa = asma_edge_instruction_set();
    std::printf("asma-edge %s, instruction set %s\n%lld joints of %lld numbers; %s\n", asma_edge_version(),
                isa ? isa : "of ASMA_ISA, which is not here", static_cast<long long>(asma_edge_joints(runner.model())),
                static_cast<long long>(asma_edge_channels(runner.model())),
                asma_edge_takes_recordings(runner.model()) ? "takes recordings" : "takes prepared clips only");
    for (std::int64_t k = 0; k < runner.classes(); ++k) std::printf("%s\n", asma_edge_class_name(runner.model(), k));
}

int do_verb(int count, char** given) {
    const std::string verb = count > 1 ? given[1] : "-h";
    if (verb == "-h" || verb == "--help") {
        std::fputs(usage, stdout);
        return 0;
    }
    const bool reads = verb == "classify" || verb == "run";
    if (!reads && verb != "bench" && verb != "info") throw Failure("no verb " + verb + "; asma-edge -h tells them");
    const int fixed = reads ? 4 : 3;
    if (count < fixed) throw Failure(verb + " needs a MODEL" + (reads ? " and a FILE" : ""));
    const Options options = options_of(count - fixed + 1, given + fixed - 1);
    if (optind < count - fixed + 1) throw Failure(std::string("one argument too many: ") + given[fixed - 1 + optind]);
    if (verb == "classify") classify(given[2], given[3], options);
    if (verb == "run") run(given[2], given[3], options);
    if (verb == "bench") bench(given[2], options);
    if (verb == "info") info(given[2]);
    return 0;
}

}  // namespace

int main(int count, char** given) {
    try {
        return do_verb(count, given);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "asma-edge: %s\n", error.what());
        return 1;
    }
}
