#include "core/missing.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace asma {
namespace {

bool finite(const ClipView& clip, const float* joint) {
    for (std::int64_t c = 0; c < clip.channels; ++c)
        if (!std::isfinite(joint[c * clip.channel_stride])) return false;
    return true;
}

// Steps from each joint to the root.
std::vector<std::int64_t> depths_of(const std::vector<std::int32_t>& parents) {
    const auto joints = static_cast<std::int64_t>(parents.size());
    std::vector<std::int64_t> depths(parents.size());
    std::int64_t roots = 0;
    for (std::int64_t v = 0; v < joints; ++v) {
        std::int64_t at = v, depth = 0;
        for (; depth < joints; ++depth) {
            const std::int64_t above = parents[static_cast<std::size_t>(at)];
            if (above < 0 || above >= joints) throw std::invalid_argument("a parent must be one of the joints");
            if (above == at) break;
            at = above;
        }
        if (depth == joints) throw std::invalid_argument("parents must lead to a root, not in a circle");
        roots += depth == 0;
        depths[static_cast<std::size_t>(v)] = depth;
    }
    if (roots != 1) throw std::invalid_argument("parents must lead to one root");
    return depths;
}

// One body of a clip, its states and its place in the output.
struct Body {
    const ClipView& clip;
    std::int64_t body;
    const JointState* states;  // (T, V)
    float* out;                // (T, V, C)

    JointState state(std::int64_t t, std::int64_t v) const { return states[t * clip.joints + v]; }
    float* to(std::int64_t t, std::int64_t v) const { return out + (t * clip.joints + v) * clip.channels; }

    void copy() const {
        for (std::int64_t t = 0; t < clip.frames; ++t)
            for (std::int64_t v = 0; v < clip.joints; ++v) {
                const float* from = clip.joint(body, t, v);
                const JointState is = state(t, v);
                for (std::int64_t c = 0; c < clip.channels; ++c) {
                    const float value = from[c * clip.channel_stride];
                    const bool stays = is == JointState::known ||
                                       (is == JointState::missing && c >= clip.dims && std::isfinite(value));
                    to(t, v)[c] = stays ? value : 0.0F;
                }
            }
    }

    // Fills the missing frames of (begin, end), both exclusive; −1 and T stand for ends that know nothing.
    void fill_gap(std::int64_t v, std::int64_t begin, std::int64_t end) const {
        const float* before = to(begin < 0 ? end : begin, v);
        const float* after = to(end == clip.frames ? begin : end, v);
        for (std::int64_t t = begin + 1; t < end; ++t) {
            if (state(t, v) != JointState::missing) continue;
            const double weight = static_cast<double>(t - begin) / static_cast<double>(end - begin);
            for (int c = 0; c < clip.dims; ++c) {
                const double from = before[c];
                to(t, v)[c] = static_cast<float>(from + weight * (static_cast<double>(after[c]) - from));
            }
        }
    }

    // Whether any frame knows the joint.
    bool fill_in_time(std::int64_t v) const {
        std::int64_t last = -1;
        for (std::int64_t t = 0; t < clip.frames; ++t)
            if (state(t, v) == JointState::known) {
                fill_gap(v, last, t);
                last = t;
            }
        if (last >= 0) fill_gap(v, last, clip.frames);
        return last >= 0;
    }

    void fill_from(std::int64_t v, std::int64_t source) const {
        for (std::int64_t t = 0; t < clip.frames; ++t)
            if (state(t, v) == JointState::missing) std::copy_n(to(t, source), clip.dims, to(t, v));
    }
};

}  // namespace

Missing find_missing(const ClipView& clip, const MarkView& marks) {
    Missing found;
    found.states.resize(static_cast<std::size_t>(clip.bodies * clip.frames * clip.joints), JointState::absent);
    JointState* states = found.states.data();
    for (std::int64_t body = 0; body < clip.bodies; ++body)
        for (std::int64_t frame = 0; frame < clip.frames; ++frame, states += clip.joints) {
            if (!clip.present(body, frame)) continue;
            std::int64_t count = 0;
            for (std::int64_t v = 0; v < clip.joints; ++v) {
                const bool lacks = marks(body, frame, v) || !finite(clip, clip.joint(body, frame, v));
                states[v] = lacks ? JointState::missing : JointState::known;
                count += lacks;
            }
            if (2 * count > clip.joints) {
                std::fill_n(states, clip.joints, JointState::absent);
                ++found.dropped_bodies;
            } else {
                found.missing_joints += count;
            }
        }
    return found;
}

void fill_missing(const ClipView& clip, const Missing& missing, const std::vector<std::int32_t>& parents, float* out) {
    if (static_cast<std::int64_t>(parents.size()) != clip.joints)
        throw std::invalid_argument("every joint must have a parent");
    const std::vector<std::int64_t> depths = depths_of(parents);
    std::vector<char> known(parents.size());
    for (std::int64_t body = 0; body < clip.bodies; ++body) {
        const std::int64_t rows = body * clip.frames * clip.joints;
        const Body one{clip, body, missing.states.data() + rows, out + rows * clip.channels};
        one.copy();
        std::size_t nearest = parents.size();
        for (std::size_t v = 0; v < parents.size(); ++v) {
            known[v] = one.fill_in_time(static_cast<std::int64_t>(v));
            if (known[v] && (nearest == parents.size() || depths[v] < depths[nearest])) nearest = v;
        }
        if (nearest == parents.size()) continue;
        for (std::size_t v = 0; v < parents.size(); ++v) {
            if (known[v]) continue;
            std::size_t source = v;
            while (!known[source] && depths[source] > 0) source = static_cast<std::size_t>(parents[source]);
            one.fill_from(static_cast<std::int64_t>(v), static_cast<std::int64_t>(known[source] ? source : nearest));
        }
    }
}

}  // namespace asma
