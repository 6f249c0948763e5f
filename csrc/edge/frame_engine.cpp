#include "edge/frame_engine.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <utility>

#include "core/scratch.hpp"
#include "edge/pooling.hpp"

namespace asma::edge {
namespace {

constexpr std::int64_t largest_arena = std::int64_t{1} << 28;  // floats
constexpr std::int64_t line = 16;                              // floats of a cache line
constexpr std::int64_t longest_period = 1 << 10, longest_reach = 1 << 14, most_pooled = 1 << 16;
constexpr std::int64_t usual_frames = 50;  // of a training clip, where the recipe does not tell
constexpr std::int64_t never = std::numeric_limits<std::int64_t>::min() / 2;
constexpr std::int64_t most_rows = 128;   // joints × bodies in work at a time
constexpr double unit_cost = 16'384;      // products that are worth what any unit takes
constexpr double parts_of_a_period = 16;  // a unit takes at most such a share of it, where it can be cut
enum Mark : std::uint8_t { active = 1, fill_rings = 2, fill_features = 4, counted = 8 };

std::int64_t whole_quads(std::int64_t channels) {
    constexpr std::int64_t quad = cpu::joint_padding<float>;
    return (channels + quad - 1) / quad * quad;
}

// Arrays of one arena, each at a cache line's beginning: told, then cut.
class Parts {
public:
    void want(float*& part, std::int64_t count) {
        wanted_.push_back({&part, total_});
        total_ = checked_sum(total_, checked_sum(count, line - 1) / line * line);
    }
    std::int64_t total() const { return total_; }
    void cut(std::vector<float>& arena) const {
        arena.assign(static_cast<std::size_t>(total_ + line), 0.0F);
        const auto misplaced = reinterpret_cast<std::uintptr_t>(arena.data()) / sizeof(float) % line;
        for (const auto& [part, at] : wanted_) *part = arena.data() + (line - misplaced) % line + at;
    }

private:
    std::vector<std::pair<float**, std::int64_t>> wanted_;
    std::int64_t total_ = 0;
};

cpu::FrameConvParams<float> conv_params(const PackedConv& conv, std::int64_t width, std::int64_t out_width) {
    const cpu::TemporalConvSizes sizes = conv.sizes(1, 1);
    cpu::ConvPlan direct;
    direct.matrices = sizes.taps;
    cpu::FrameConvParams<float> p{};
    p.packed = conv.weights(ConvWay::direct), p.packed_group = cpu::packed_weights(sizes, direct);
    p.by_tap = conv.by_tap(), p.bias = conv.layer().bias.data();
    p.width = width, p.out_width = out_width, p.groups = sizes.groups;
    p.channels = sizes.channels, p.columns = sizes.columns, p.taps = sizes.taps;
    return p;
}

std::int64_t items_of(const cpu::FrameConvParams<float>& p) {
    return p.by_tap ? cpu::slabs(p.groups) : p.groups * cpu::slabs(p.columns);
}

double products(const cpu::FrameConvParams<float>& p, std::int64_t joints) {
    return static_cast<double>(joints * p.groups * p.columns) * static_cast<double>(p.channels * p.taps);
}

}  // namespace

FrameEngine::FrameEngine(std::shared_ptr<const Network> network, const FrameSettings& settings)
    : network_(std::move(network)),
      streams_(settings.streams),
      bodies_(settings.streams * settings.bodies),
      joints_(network_->model().joints),
      pool_(settings.pool) {
    check_causal(*network_);
    together_ = std::max<std::int64_t>(1, most_rows / joints_);
    const std::vector<PackedBlock>& packed = network_->blocks();
    blocks_.resize(packed.size());
    std::int64_t settle = 0;
    for (std::size_t i = 0; i < packed.size(); ++i) {
        Block& block = blocks_[i];
        const ConvLayer& conv = packed[i].convs[0].layer();
        block = {};
        block.packed = &packed[i];
        block.taps = conv.taps, block.stride = conv.stride, block.every = period_, block.settle = settle;
        block.width = whole_quads(packed[i].graph.channels), block.out_width = whole_quads(packed[i].graph.columns);
        reach_ = checked_sum(reach_, checked_product({conv.taps - 1, period_}));
        settle = (settle + conv.taps - 1 + conv.stride - 1) / conv.stride;
        period_ *= conv.stride;
        if (reach_ > longest_reach)
            throw Error("a continual stream takes networks that look back at most " + std::to_string(longest_reach) +
                        " frames, got " + std::to_string(reach_) + " or more");
        if (period_ > longest_period)
            throw Error("a continual stream takes strides whose product is at most " + std::to_string(longest_period) +
                        ", got " + std::to_string(period_) + " or more");
    }
    settle_ = settle;
    const std::optional<Recipe>& recipe = network_->model().recipe;
    if (pool_ == 0) {
        const std::int64_t frames = recipe && recipe->frames ? recipe->frames : usual_frames;
        pool_ = std::min((frames - 1) / period_ + 1, most_pooled);
    }
    if (pool_ < 1 || pool_ > most_pooled)
        throw Error("pool must be from 1 to " + std::to_string(most_pooled) + " outputs of the last block, got " +
                    std::to_string(pool_));
    lay_out();
    plan(settings.spread);
    learn_empty();
    reset();
}

void FrameEngine::check_causal(const Network& network) {
    if (network.int8()) throw Error("a continual stream runs float32 models, this one is int8: mode window runs it");
    std::int64_t index = 0;
    for (const PackedBlock& block : network.blocks()) {
        const ConvLayer& conv = block.convs[0].layer();
        const std::string where = "; block " + std::to_string(index++);
        if (conv.right != 0)
            throw Error(
                "a continual stream needs a causal network, every temporal convolution of which is padded on the left "
                "alone (STGCN(causal=True), pretrain or distill --causal)" +
                where + " is padded by " + std::to_string(conv.left) + " frames on the left and " +
                std::to_string(conv.right) + " on the right");
        for (const std::vector<PackedConv>* layers : {&block.convs, &block.shortcut})
            for (const PackedConv& layer : *layers)
                if (&layer != &block.convs[0] && layer.layer().taps != 1)
                    throw Error("a continual stream needs pointwise and residual convolutions of one tap" + where +
                                " has one of " + std::to_string(layer.layer().taps));
    }
}

void FrameEngine::lay_out() {
    const std::int64_t input = bodies_ * joints_ * blocks_[0].width, width = network_->features();
    Parts parts;
    std::int64_t gathered = 0, packed_frame = 0;
    records_.resize(static_cast<std::size_t>(period_));
    for (Record& record : records_) {
        parts.want(record.x, input);
        record.marks.resize(static_cast<std::size_t>(bodies_));
    }
    for (Block& block : blocks_) {
        const std::int64_t frame = checked_product({bodies_, joints_, block.out_width});
        parts.want(block.ring, checked_product({frame, block.taps > 1 ? 2 * block.taps : 1}));
        parts.want(block.out, frame);
        if (block.packed->convs.size() > 1) parts.want(block.beside, frame);
        if (!block.packed->shortcut.empty()) parts.want(block.shortcut, frame);
        parts.want(block.bias, joints_ * block.out_width);
        parts.want(block.empty, checked_product({block.settle + 1, joints_, block.out_width}));
        gathered = std::max(gathered, checked_product({bodies_, joints_, block.packed->graph.parts, block.width}));
        packed_frame = std::max(packed_frame, joints_ * cpu::packed_columns(block.width));
    }
    parts.want(features_, checked_product({bodies_, pool_, width}));
    parts.want(empty_features_, checked_product({settle_ + 1, width}));
    parts.want(gathered_, gathered), parts.want(packed_frame_, packed_frame);
    if (parts.total() > largest_arena)
        throw Error("the stream would need " + std::to_string(parts.total() / (std::int64_t{1} << 18)) +
                    " MiB; ask for fewer bodies, or a shorter pool");
    parts.cut(arena_);
    logits_.resize(static_cast<std::size_t>(checked_product({streams_, network_->classes()})));
    somebody_.resize(static_cast<std::size_t>(streams_));
    mean_.resize(static_cast<std::size_t>(width)), sums_.resize(static_cast<std::size_t>(width));
    seen_.resize(static_cast<std::size_t>(bodies_)), active_.resize(static_cast<std::size_t>(bodies_));

    const float* x = nullptr;  // of the first block: a record's
    for (Block& block : blocks_) {
        const PackedBlock& packed = *block.packed;
        const GraphLayer& graph = packed.graph;
        block.x = x, x = block.out;
        for (std::int64_t v = 0; v < joints_; ++v)
            std::copy_n(graph.bias.begin() + v * graph.columns, graph.columns, block.bias + v * block.out_width);
        cpu::FrameGraphParams<float>& p = block.graph;
        p.packed = packed.packed_graph.data(), p.joint_bias = block.bias;
        p.into = {const_cast<std::int32_t*>(packed.entry_starts.data()),
                  const_cast<std::int32_t*>(packed.entry_others.data()),
                  const_cast<float*>(packed.entry_values.data())};
        p.joints = joints_, p.channels = graph.channels, p.width = block.width, p.parts = graph.parts;
        p.out_channels = graph.columns, p.out_width = block.out_width;
        p.gathered = gathered_, p.packed_frame = packed_frame_;
        const bool separable = packed.convs.size() > 1;
        for (std::size_t i = 0; i < packed.convs.size(); ++i) {
            block.convs[i] = conv_params(packed.convs[i], block.out_width, block.out_width);
            block.convs[i].relu = true;
        }
        block.convs[0].source_tap = bodies_ * joints_ * block.out_width;
        block.convs[0].out = separable ? block.beside : block.out;
        cpu::FrameConvParams<float>& last = block.convs[separable ? 1 : 0];
        last.out = block.out, last.residual = block.shortcut;
        if (separable) last.source = block.beside;
        if (!packed.shortcut.empty()) {
            block.side = conv_params(packed.shortcut[0], block.width, block.out_width);
            block.side.out = block.shortcut;
        }
    }
}

void FrameEngine::add_layer(Step step, std::int64_t phase, std::int64_t block, std::int64_t items, double cost) {
    units_.push_back({step, phase, block, 0, items, cost + unit_cost});
}

// The units of a period in the order in which its frames bring them, and how many are done after each frame.
void FrameEngine::plan(bool spread) {
    const auto joints = static_cast<double>(joints_);
    double total = 0;
    for (std::int64_t phase = 0; phase < period_; ++phase) {
        add_layer(Step::begin, phase, 0, 1, joints * static_cast<double>(blocks_[0].width));
        std::int64_t index = 0;
        for (const Block& block : blocks_) {
            if (phase % block.every) break;
            const GraphLayer& graph = block.packed->graph;
            const double gathering = static_cast<double>(graph.parts * block.width) * 12;
            add_layer(Step::graph, phase, index, cpu::slabs(graph.columns),
                      joints * (static_cast<double>(graph.parts * graph.channels * graph.columns) + gathering));
            if (phase % (block.every * block.stride)) break;
            if (!block.packed->shortcut.empty())
                add_layer(Step::shortcut, phase, index, items_of(block.side), products(block.side, joints_));
            add_layer(Step::conv, phase, index, items_of(block.convs[0]), products(block.convs[0], joints_));
            if (block.packed->convs.size() > 1)
                add_layer(Step::pointwise, phase, index, items_of(block.convs[1]), products(block.convs[1], joints_));
            ++index;
        }
        if (phase == 0)
            add_layer(Step::tell, phase, 0, 1,
                      joints * static_cast<double>(network_->features() * (1 + network_->classes())));
        ends_.push_back(units_.size());
    }
    if (!spread) return;
    for (const Unit& unit : units_) total += unit.cost;
    // Layers with much work are cut by columns, those of a frame stay in order; what a frame may do is an even share.
    std::vector<Unit> whole;
    std::swap(whole, units_);
    std::vector<std::size_t> brought;  // by the frames so far
    std::size_t next = 0;
    for (const std::size_t end : ends_) {
        for (; next < end; ++next) {
            const Unit& unit = whole[next];
            const auto wanted = static_cast<std::int64_t>(parts_of_a_period * unit.cost / total) + 1;
            const std::int64_t pieces = std::clamp<std::int64_t>(wanted, 1, unit.end);
            for (std::int64_t i = 0; i < pieces; ++i)
                units_.push_back({unit.step, unit.phase, unit.block, unit.end * i / pieces, unit.end * (i + 1) / pieces,
                                  unit.cost / static_cast<double>(pieces)});
        }
        brought.push_back(units_.size());
    }
    ends_.clear();
    double spent = 0;
    std::size_t end = 0;
    for (std::int64_t phase = 0; phase < period_; ++phase) {
        const double share = total * static_cast<double>(phase + 1) / static_cast<double>(period_);
        for (; end < brought[static_cast<std::size_t>(phase)]; ++end) {
            const double cost = units_[end].cost;
            if (phase + 1 < period_ && spent + cost / 2 > share) break;
            spent += cost;
        }
        ends_.push_back(end);
        const auto told = [](const Unit& unit) { return unit.step == Step::tell; };
        if (std::none_of(units_.begin(), units_.begin() + static_cast<std::ptrdiff_t>(end), told)) delay_ = phase + 1;
    }
}

// Runs one body that never was there until it stays the same, and keeps what the rings get.
void FrameEngine::learn_empty() {
    const std::vector<float> nobody(static_cast<std::size_t>(bodies_ * joints_ * network_->model().channels));
    const std::vector<std::uint8_t> fresh(static_cast<std::size_t>(bodies_));
    reset();
    learning_ = true;
    for (std::int64_t frame = 0; frame <= settle_ * period_ || frame % period_; ++frame)
        push(nobody.data(), fresh.data());
    learning_ = false;
}

void FrameEngine::reset() {
    frame_ = told_frame_ = 0, done_ = 0;
    std::fill(seen_.begin(), seen_.end(), never);
    std::fill(active_.begin(), active_.end(), std::uint8_t{0});
}

bool FrameEngine::push(const float* frame, const std::uint8_t* fresh) {
    const Model& model = network_->model();
    const std::int64_t phase = frame_ % period_, channels = model.channels, width = blocks_[0].width;
    const std::int64_t span = pool_ * period_;
    Record& record = records_[static_cast<std::size_t>(phase)];
    record.frame = frame_;
    for (std::int64_t m = 0; m < bodies_; ++m) {
        const auto at = static_cast<std::size_t>(m);
        const float* const from = frame + m * joints_ * channels;
        std::int64_t& seen = seen_[at];
        std::uint8_t& mark = record.marks[at];
        mark = fresh[m] ? fill_features : 0;
        if (fresh[m]) seen = never, active_[at] = 0;
        if (std::any_of(from, from + joints_ * channels, [](float one) { return one != 0; })) seen = frame_;
        if (frame_ - seen < span) mark |= counted;
        if (!(learning_ ? m == 0 : frame_ - seen < reach_)) {
            active_[at] = 0;
            continue;
        }
        mark |= active_[at] ? active : active | fill_rings;
        active_[at] = 1;
        float* const to = record.x + m * joints_ * width;
        for (std::int64_t v = 0; v < joints_; ++v)
            for (std::int64_t c = 0; c < channels; ++c) {
                const auto i = static_cast<std::size_t>(v * channels + c);
                to[v * width + c] = model.input_scale[i] * from[i] + model.input_shift[i];
            }
    }
    ++frame_;
    if (phase == 0) done_ = 0;
    bool answered = false;
    for (const std::size_t end = ends_[static_cast<std::size_t>(phase)]; done_ < end; ++done_) {
        const Unit& unit = units_[done_];
        run(unit, records_[static_cast<std::size_t>(unit.phase)]);
        answered = answered || unit.step == Step::tell;
    }
    return answered;
}

// work(first, count) for every run of bodies that have rings; no longer than their gathered joints stay in the cache.
template <class Work> void FrameEngine::for_runs(const Record& record, Work&& work) const {
    const auto is_active = [&](std::int64_t m) { return record.marks[static_cast<std::size_t>(m)] & active; };
    for (std::int64_t first = 0; first < bodies_; ++first) {
        if (!is_active(first)) continue;
        std::int64_t end = first + 1;
        while (end < bodies_ && end - first < together_ && is_active(end)) ++end;
        work(first, end - first);
        first = end - 1;
    }
}

void FrameEngine::run(const Unit& unit, const Record& record) {
    if (unit.step == Step::begin) return begin(record);
    if (unit.step == Step::tell) return tell(record);
    const Block& block = blocks_[static_cast<std::size_t>(unit.block)];
    const auto& kernels_of = *block.packed;
    const std::int64_t body = joints_ * block.out_width, place = record.frame / block.every % block.taps;
    const float* const x = unit.block == 0 ? record.x : block.x;
    if (unit.step == Step::graph) {
        cpu::FrameGraphParams<float> p = block.graph;
        const std::int64_t again = block.taps > 1 ? place + block.taps : place;
        for_runs(record, [&](std::int64_t first, std::int64_t count) {
            p.bodies = count, p.x = x + first * joints_ * block.width;
            p.gathered = gathered_ + first * joints_ * p.parts * p.width;
            p.out = block.ring + (again * bodies_ + first) * body;
            p.copy = block.taps > 1 ? block.ring + (place * bodies_ + first) * body : nullptr;
            kernels_of.kernels->frame_graph(p, unit.begin, unit.end);
        });
        const std::int64_t t = record.frame / block.every;
        if (learning_ && t <= block.settle)
            std::copy_n(block.ring + again * bodies_ * body, body, block.empty + t * body);
        return;
    }
    const bool side = unit.step == Step::shortcut, point = unit.step == Step::pointwise;
    const PackedConv& conv = side ? block.packed->shortcut[0] : block.packed->convs[point ? 1 : 0];
    cpu::FrameConvParams<float> p = side ? block.side : block.convs[point ? 1 : 0];
    // The taps' frames end with the last one, which is written a ring behind its place.
    const float* const source = side    ? x
                                : point ? block.beside
                                        : block.ring + (block.taps > 1 ? place + 1 : 0) * bodies_ * body;
    const float* const residual = block.packed->residual == Residual::identity ? x : block.shortcut;
    const bool last = !side && (point || block.packed->convs.size() == 1);
    for_runs(record, [&](std::int64_t first, std::int64_t count) {
        p.rows = count * joints_;
        p.source = source + first * joints_ * p.width;
        cpu::FrameConvParams<float> mine = p;
        mine.out = p.out + first * body;
        mine.residual = last && residual ? residual + first * body : nullptr;
        conv.kernels().frame_conv(mine, unit.begin, unit.end);
    });
}

// Bodies that come after a while, or for the first time, get the rings, and the outputs so far, of one that was not
// there.
void FrameEngine::begin(const Record& record) {
    for (std::int64_t m = 0; m < bodies_; ++m) {
        const std::uint8_t mark = record.marks[static_cast<std::size_t>(m)];
        for (const Block& block : blocks_) {
            if (!(mark & fill_rings)) break;
            const std::int64_t size = joints_ * block.out_width;
            const std::int64_t next = (record.frame + block.every - 1) / block.every;
            for (std::int64_t t = next - block.taps + 1; t < next; ++t)
                for (const std::int64_t ring : {std::int64_t{0}, block.taps}) {
                    const std::int64_t place = (t + block.taps) % block.taps + ring;
                    float* const to = block.ring + (place * bodies_ + m) * size;
                    if (t < 0)
                        std::fill_n(to, size, 0.0F);
                    else
                        std::copy_n(block.empty + std::min(t, block.settle) * size, size, to);
                }
        }
        const std::int64_t next = (record.frame + period_ - 1) / period_, width = network_->features();
        for (std::int64_t u = std::max<std::int64_t>(0, next - pool_ + 1); (mark & fill_features) && u < next; ++u)
            std::copy_n(empty_features_ + std::min(u, settle_) * width, width, feature(m, u));
    }
}

void FrameEngine::tell(const Record& record) {
    const Block& last = blocks_.back();
    const std::int64_t output = record.frame / period_, width = network_->features();
    for (std::int64_t m = 0; m < bodies_; ++m) {
        float* const to = feature(m, output);
        if (record.marks[static_cast<std::size_t>(m)] & active)
            average(last.out + m * joints_ * last.out_width, joints_, last.out_width, width, to, sums_.data());
        else
            std::copy_n(empty_features_ + std::min(output, settle_) * width, width, to);
    }
    if (learning_ && output <= settle_) std::copy_n(feature(0, output), width, empty_features_ + output * width);
    told_frame_ = record.frame;
    for (std::int64_t stream = 0; stream < streams_; ++stream)
        somebody_[static_cast<std::size_t>(stream)] = head(record, stream);
}

// Logits of a stream; false where nobody is there.
bool FrameEngine::head(const Record& record, std::int64_t stream) {
    const Model& model = network_->model();
    const std::int64_t width = network_->features(), each = bodies_ / streams_, first = stream * each;
    const auto is_counted = [](std::uint8_t mark) { return (mark & counted) != 0; };
    const auto marks = record.marks.begin() + first;
    if (std::none_of(marks, marks + each, is_counted)) return false;
    std::fill(sums_.begin(), sums_.end(), 0.0);
    const std::int64_t outputs = std::min(record.frame / period_ + 1, pool_);
    std::int64_t averaged = 0;
    for (std::int64_t m = first; m < first + each; ++m) {
        if (model.present_bodies && !is_counted(record.marks[static_cast<std::size_t>(m)])) continue;
        ++averaged;
        add_rows(feature(m, 0), outputs, width, sums_.data());
    }
    for (std::size_t c = 0; c < mean_.size(); ++c)
        mean_[c] = static_cast<float>(sums_[c] / static_cast<double>(averaged * outputs));
    apply_head(model, mean_.data(), logits_.data() + stream * network_->classes());
    return true;
}

}  // namespace asma::edge
