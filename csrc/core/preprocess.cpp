#include "core/preprocess.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>

namespace asma {
namespace {

using Point = std::array<double, 3>;

Point mean_of(const float* joints, std::int64_t joint_stride, std::int64_t channel_stride, int dims,
              const std::vector<std::int32_t>& chosen) {
    Point mean{};
    for (const std::int32_t joint : chosen)
        for (int c = 0; c < dims; ++c) mean[c] += joints[joint * joint_stride + c * channel_stride];
    for (double& value : mean) value /= static_cast<double>(chosen.size());
    return mean;
}

Point mean_of(const ClipView& clip, std::int64_t body, std::int64_t frame, const std::vector<std::int32_t>& chosen) {
    return mean_of(clip.joint(body, frame, 0), clip.joint_stride, clip.channel_stride, clip.dims, chosen);
}

// The body whose track stands for the clip: body 0, or the first that appears at all.
std::int64_t leading_body(const ClipView& clip, const std::vector<std::int64_t>& valid) {
    for (std::int64_t body = 0; body < clip.bodies; ++body)
        for (const std::int64_t frame : valid)
            if (clip.present(body, frame)) return body;
    return 0;
}

Point first_centre(const ClipView& clip, const std::vector<std::int64_t>& valid,
                   const std::vector<std::int32_t>& centre_joints) {
    const std::int64_t body = leading_body(clip, valid);
    for (const std::int64_t frame : valid)
        if (clip.present(body, frame)) return mean_of(clip, body, frame, centre_joints);
    return {};
}

// Median over the valid frames of the leading body; of an even number, the mean of the middle two.
double torso_length(const ClipView& clip, const std::vector<std::int64_t>& valid, const Preprocess& recipe) {
    const std::int64_t body = leading_body(clip, valid);
    std::vector<double> lengths;
    lengths.reserve(valid.size());
    for (const std::int64_t frame : valid) {
        if (!clip.present(body, frame)) continue;
        const Point top = mean_of(clip, body, frame, recipe.torso_top);
        const Point bottom = mean_of(clip, body, frame, recipe.torso_bottom);
        const double length = std::hypot(top[0] - bottom[0], top[1] - bottom[1], top[2] - bottom[2]);
        if (!std::isfinite(length))
            throw std::domain_error("torso length must be finite: the clip holds a NaN or infinity");
        lengths.push_back(length);
    }
    if (lengths.empty()) throw std::domain_error("torso length needs a frame with a body");
    std::sort(lengths.begin(), lengths.end());
    const std::size_t half = lengths.size() / 2;
    const double median = lengths.size() % 2 ? lengths[half] : 0.5 * (lengths[half - 1] + lengths[half]);
    if (!(median > 0)) throw std::domain_error("torso length must be positive: shoulders and hips lie in one point");
    return median;
}

struct Box {
    Point low{}, high{};

    Point middle() const {
        Point point{};
        for (std::size_t c = 0; c < point.size(); ++c) point[c] = 0.5 * (low[c] + high[c]);
        return point;
    }

    double half_side() const {
        double side = 0;
        for (std::size_t c = 0; c < low.size(); ++c) side = std::max(side, high[c] - low[c]);
        return 0.5 * side;
    }
};

// The box of the joints that `counts` chooses; whether there are any.
template <class Counts>
bool surround(const ClipView& clip, const std::vector<std::int64_t>& valid, Counts&& counts, Box& box) {
    bool any = false;
    for (std::int64_t body = 0; body < clip.bodies; ++body)
        for (const std::int64_t frame : valid) {
            if (!clip.present(body, frame)) continue;
            for (std::int64_t v = 0; v < clip.joints; ++v) {
                const float* joint = clip.joint(body, frame, v);
                if (!counts(joint)) continue;
                for (int c = 0; c < clip.dims; ++c) {
                    const double value = joint[c * clip.channel_stride];
                    if (!std::isfinite(value))
                        throw std::domain_error("the joints' box must be finite: the clip holds a NaN or infinity");
                    const auto axis = static_cast<std::size_t>(c);
                    box.low[axis] = any ? std::min(box.low[axis], value) : value;
                    box.high[axis] = any ? std::max(box.high[axis], value) : value;
                }
                any = true;
            }
        }
    return any;
}

Box box_of(const ClipView& clip, const std::vector<std::int64_t>& valid) {
    Box box;
    const auto seen = [&](const float* joint) {
        return clip.channels == clip.dims || joint[clip.dims * clip.channel_stride] != 0;
    };
    if (!surround(clip, valid, seen, box) && !surround(clip, valid, [](const float*) { return true; }, box))
        throw std::domain_error("the joints' box needs a frame with a body");
    return box;
}

// What centre rules other than per_body subtract from every body and frame.
Point common_origin(const ClipView& clip, const Preprocess& recipe, const std::vector<std::int64_t>& valid,
                    const Box& box) {
    switch (recipe.centre) {
        case CentreRule::first:
            return first_centre(clip, valid, recipe.centre_joints);
        case CentreRule::box:
            return box.middle();
        case CentreRule::image:
            return {0.5 * recipe.image[0], 0.5 * recipe.image[1], 0};
        default:
            return {};
    }
}

double unit_of(const ClipView& clip, const Preprocess& recipe, const std::vector<std::int64_t>& valid, const Box& box) {
    switch (recipe.scale) {
        case ScaleRule::torso:
            return torso_length(clip, valid, recipe);
        case ScaleRule::image:
            return 0.5 * std::max(recipe.image[0], recipe.image[1]);
        case ScaleRule::box:
            if (!(box.half_side() > 0))
                throw std::domain_error("the joints' box must have an extent: all joints lie in one point");
            return box.half_side();
        default:
            return 1;
    }
}

// One recorded body and frame as the resize reads it: (joint − origin) · scale, or zeros where the body is absent.
struct Source {
    const float* joints;
    Point origin;
    bool is_present;
};

Source source(const ClipView& clip, const Preprocess& recipe, const Point& origin, std::int64_t body,
              std::int64_t frame) {
    Source read{clip.joint(body, frame, 0), origin, clip.present(body, frame)};
    if (recipe.centre == CentreRule::per_body) read.origin = mean_of(clip, body, frame, recipe.centre_joints);
    return read;
}

double value(const ClipView& clip, const Source& from, double scale, std::int64_t v, std::int64_t c) {
    if (!from.is_present) return 0;
    const double recorded = from.joints[v * clip.joint_stride + c * clip.channel_stride];
    return c < clip.dims ? (recorded - from.origin[static_cast<std::size_t>(c)]) * scale : recorded;
}

void sample(const ClipView& clip, const Source& low, const Source& high, double weight, double scale, float* to) {
    for (std::int64_t v = 0; v < clip.joints; ++v)
        for (std::int64_t c = 0; c < clip.channels; ++c) {
            double sample = value(clip, low, scale, v, c);
            if (weight > 0) sample += weight * (value(clip, high, scale, v, c) - sample);
            *to++ = static_cast<float>(sample);
        }
}

void centre_scale_resize(const ClipView& clip, const Preprocess& recipe, const std::vector<std::int64_t>& valid,
                         std::int64_t out_frames, float* out) {
    const bool boxed = recipe.centre == CentreRule::box || recipe.scale == ScaleRule::box;
    const Box box = boxed ? box_of(clip, valid) : Box{};
    const Point origin = common_origin(clip, recipe, valid, box);
    const double scale = 1.0 / unit_of(clip, recipe, valid, box);
    const auto length = static_cast<std::int64_t>(valid.size());
    for (std::int64_t body = 0; body < clip.bodies; ++body) {
        for (std::int64_t t = 0; t < out_frames; ++t) {
            const double step = static_cast<double>(length) / static_cast<double>(out_frames);
            const double at =
                std::clamp((static_cast<double>(t) + 0.5) * step - 0.5, 0.0, static_cast<double>(length - 1));
            const auto before = static_cast<std::int64_t>(at);
            const std::int64_t after = std::min(before + 1, length - 1);
            const double weight = at - static_cast<double>(before);
            sample(clip, source(clip, recipe, origin, body, valid[static_cast<std::size_t>(before)]),
                   source(clip, recipe, origin, body, valid[static_cast<std::size_t>(after)]), weight, scale,
                   out + (body * out_frames + t) * clip.joints * clip.channels);
        }
    }
}

// The resized clip as the rotation sees it: dense (M, T, V, C), turned in the plane of two horizontal axes.
struct Resized {
    float* data;
    std::int64_t frames, joints, channels;
    std::size_t ahead, aside;  // the horizontal axes; shoulders end up along `ahead`

    float* frame(std::int64_t body, std::int64_t t) const { return data + (body * frames + t) * joints * channels; }

    // Right − left shoulder in the horizontal plane.
    std::array<double, 2> shoulders(const Preprocess& recipe, std::int64_t body, std::int64_t t) const {
        const float* from = frame(body, t);
        const Point left = mean_of(from, channels, 1, 3, recipe.left_shoulder);
        const Point right = mean_of(from, channels, 1, 3, recipe.right_shoulder);
        return {right[ahead] - left[ahead], right[aside] - left[aside]};
    }

    void turn(std::int64_t body, std::int64_t t, double cosine, double sine) const {
        float* joint = frame(body, t);
        for (std::int64_t v = 0; v < joints; ++v, joint += channels) {
            const double a = joint[ahead], b = joint[aside];
            joint[ahead] = static_cast<float>(cosine * a - sine * b);
            joint[aside] = static_cast<float>(sine * a + cosine * b);
        }
    }
};

Resized resized(const ClipView& clip, const Preprocess& recipe, std::int64_t frames, float* data) {
    return {data, frames, clip.joints, clip.channels, std::size_t(recipe.up_axis == 0), recipe.up_axis == 2 ? 1U : 2U};
}

// Writes cosine and sine of each frame's angle, taken from one body's shoulders.
using Angles = std::vector<Heading>;

void take_heading(const Resized& clip, const Preprocess& recipe, std::int64_t body, std::int64_t t, Heading& held) {
    const auto [a, b] = clip.shoulders(recipe, body, t);
    const double norm = std::hypot(a, b);
    if (norm > 0) held = {a / norm, -b / norm};
}

void angles_of_frames(const Resized& clip, const Preprocess& recipe, std::int64_t body, Angles& angles) {
    Heading held = no_turn;
    for (std::int64_t t = 0; t < clip.frames; ++t) {
        take_heading(clip, recipe, body, t, held);
        angles[static_cast<std::size_t>(t)] = held;
    }
}

void angle_of_clip(const Resized& clip, const Preprocess& recipe, std::int64_t body, Angles& angles) {
    double sum_a = 0, sum_b = 0;
    for (std::int64_t t = 0; t < clip.frames; ++t) {
        const auto [a, b] = clip.shoulders(recipe, body, t);
        sum_a += a;
        sum_b += b;
    }
    const double norm = std::hypot(sum_a, sum_b);
    const Heading one = norm > 0 ? Heading{sum_a / norm, -sum_b / norm} : no_turn;
    std::fill(angles.begin(), angles.end(), one);
}

// AimCLR's arccos of a cosine damped by 1e-4, with one sign for the whole clip of a body.
void angles_of_aimclr(const Resized& clip, const Preprocess& recipe, std::int64_t body, Angles& angles) {
    double sum_b = 0;
    for (std::int64_t t = 0; t < clip.frames; ++t) {
        const auto [a, b] = clip.shoulders(recipe, body, t);
        sum_b += b;
        const double theta = std::acos(a / (std::hypot(a, b) + 1e-4));
        angles[static_cast<std::size_t>(t)] = {std::cos(theta), std::sin(theta)};
    }
    if (sum_b >= 0)
        for (auto& [cosine, sine] : angles) sine = -sine;
}

void rotate(const Resized& clip, const Preprocess& recipe, std::int64_t bodies, std::int64_t leading) {
    const bool each_by_itself = recipe.rotate == RotateRule::aimclr || recipe.centre == CentreRule::per_body;
    Angles angles(static_cast<std::size_t>(clip.frames));
    for (std::int64_t body = 0; body < bodies; ++body) {
        const std::int64_t guide = each_by_itself ? body : leading;
        if (body == 0 || each_by_itself) {
            if (recipe.rotate == RotateRule::frame)
                angles_of_frames(clip, recipe, guide, angles);
            else if (recipe.rotate == RotateRule::clip)
                angle_of_clip(clip, recipe, guide, angles);
            else
                angles_of_aimclr(clip, recipe, guide, angles);
        }
        for (std::int64_t t = 0; t < clip.frames; ++t) {
            const auto [cosine, sine] = angles[static_cast<std::size_t>(t)];
            clip.turn(body, t, cosine, sine);
        }
    }
}

}  // namespace

std::vector<std::int64_t> valid_frames(const ClipView& clip, LengthRule rule) {
    std::vector<std::int64_t> kept;
    for (std::int64_t frame = 0; frame < clip.frames; ++frame) {
        bool valid = false;
        if (rule == LengthRule::aimclr) {
            const float* joint = clip.joint(0, frame, 0);
            for (int c = 0; c < clip.dims; ++c) valid |= joint[c * clip.channel_stride] != 0;
        } else {
            for (std::int64_t body = 0; body < clip.bodies && !valid; ++body) valid = clip.present(body, frame);
        }
        if (valid) kept.push_back(rule == LengthRule::aimclr ? static_cast<std::int64_t>(kept.size()) : frame);
    }
    return kept;
}

void preprocess(const ClipView& clip, const Preprocess& recipe, const std::vector<std::int64_t>& valid,
                std::int64_t out_frames, float* out) {
    if (valid.empty()) throw std::invalid_argument("preprocess needs at least one valid frame");
    centre_scale_resize(clip, recipe, valid, out_frames, out);
    if (recipe.rotate == RotateRule::none) return;
    rotate(resized(clip, recipe, out_frames, out), recipe, clip.bodies, leading_body(clip, valid));
}

bool is_frame_by_frame(const Preprocess& recipe) {
    const bool alone = recipe.centre == CentreRule::none || recipe.centre == CentreRule::per_body;
    const bool turns = recipe.rotate == RotateRule::frame && recipe.centre == CentreRule::per_body;
    return alone && recipe.scale == ScaleRule::none && (turns || recipe.rotate == RotateRule::none);
}

void preprocess_between(const ClipView& clip, const Preprocess& recipe, std::int64_t body, double weight, Heading& held,
                        float* out) {
    sample(clip, source(clip, recipe, {}, body, 0), source(clip, recipe, {}, body, 1), weight, 1, out);
    if (recipe.rotate == RotateRule::none) return;
    const Resized frame = resized(clip, recipe, 1, out);
    take_heading(frame, recipe, 0, 0, held);
    frame.turn(0, 0, held[0], held[1]);
}

}  // namespace asma
