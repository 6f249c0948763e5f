// From recorded frames to a clip a network reads: valid length → centre → scale → resize → rotate.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "core/clip_view.hpp"

namespace asma {

enum class LengthRule : std::uint8_t { drop_empty, aimclr };
enum class CentreRule : std::uint8_t { none, per_body, first, box, image };
enum class ScaleRule : std::uint8_t { none, torso, box, image };
enum class RotateRule : std::uint8_t { none, frame, clip, aimclr };

// The rules' names, in files and options.
template <class Rule> struct RuleName {
    const char* name;
    Rule rule;
};
inline constexpr RuleName<LengthRule> length_rules[] = {{"drop-empty", LengthRule::drop_empty},
                                                        {"aimclr", LengthRule::aimclr}};
inline constexpr RuleName<CentreRule> centre_rules[] = {{"per-body", CentreRule::per_body},
                                                        {"first", CentreRule::first},
                                                        {"box", CentreRule::box},
                                                        {"image", CentreRule::image},
                                                        {"none", CentreRule::none}};
inline constexpr RuleName<ScaleRule> scale_rules[] = {
    {"none", ScaleRule::none}, {"torso", ScaleRule::torso}, {"box", ScaleRule::box}, {"image", ScaleRule::image}};
inline constexpr RuleName<RotateRule> rotate_rules[] = {{"none", RotateRule::none},
                                                        {"frame", RotateRule::frame},
                                                        {"clip", RotateRule::clip},
                                                        {"aimclr", RotateRule::aimclr}};

// Scores are resized and nothing else. Every list of joints names one point: their mean.
struct Preprocess {
    LengthRule length = LengthRule::drop_empty;
    CentreRule centre = CentreRule::none;
    ScaleRule scale = ScaleRule::none;
    RotateRule rotate = RotateRule::none;
    std::vector<std::int32_t> centre_joints;
    std::vector<std::int32_t> left_shoulder, right_shoulder;
    std::vector<std::int32_t> torso_top, torso_bottom;
    std::array<double, 2> image{};  // width and height
    int up_axis = 1;
};

// The recorded frames that the length rule keeps, ascending. drop_empty: those that hold a body. aimclr: the first L,
// L being the number of frames in which the first joint of body 0 is not at the origin.
std::vector<std::int64_t> valid_frames(const ClipView& clip, LengthRule rule);

// out: (M, out_frames, V, C), dense. `valid` comes from valid_frames and holds at least one frame; every joint index
// lies in [0, V). Throws std::domain_error where the torso has no length or the box no extent.
//
// The box holds all joints of present bodies in the valid frames; where channels behind the coordinates tell that a
// joint was not seen (a score of 0), it does not count, unless no joint was. Image rules are for two coordinates.
//
// Resize reads valid frame (i + ½)·L/T − ½, clamped, linearly between neighbours. Rotation turns about the up axis so
// that right − left shoulder points along the first horizontal axis (x; y where x is up); bodies that were centred
// each on itself turn by their own angles, others by body 0's, which keeps what lies between them. Where the
// shoulders give no direction the previous frame's angle holds (0 at first).
void preprocess(const ClipView& clip, const Preprocess& recipe, const std::vector<std::int64_t>& valid,
                std::int64_t out_frames, float* out);

// Cosine and sine of the angle by which a frame was turned last.
using Heading = std::array<double, 2>;
inline constexpr Heading no_turn{1, 0};

// Whether a body's frame is prepared from itself and that angle alone, whatever the frames and bodies beside it.
bool is_frame_by_frame(const Preprocess& recipe);

// By such a recipe one body, `weight` of the way from frame 0 to frame 1 of the clip: out (V, C), dense. The same as
// preprocess gives where its resize reads there.
void preprocess_between(const ClipView& clip, const Preprocess& recipe, std::int64_t body, double weight, Heading& held,
                        float* out);

}  // namespace asma
