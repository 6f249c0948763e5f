#include "core/ntu_skeleton.hpp"

#include <limits>

#include "core/text_cursor.hpp"

namespace asma {
namespace {

constexpr int body_fields = 10;  // id, clipped edges, two hands with confidences, restricted, lean x y, tracking state
constexpr int other_fields = 9;  // of a joint, behind x y z: depth x y, colour x y, orientation w x y z, tracking state

void read_joint(TextCursor& text, float* joint) {
    text.next_line("a joint's 12 numbers");
    for (std::int64_t c = 0; c < NtuClip::channels; ++c) joint[c] = text.coordinate("a finite joint coordinate");
    for (int field = 0; field < other_fields; ++field) text.number("one of a joint's 12 numbers");
    text.end_of_line("12 numbers a joint");
}

void read_body(TextCursor& text, float* body) {
    text.next_line("a body's 10 numbers");
    for (int field = 0; field < body_fields; ++field) text.number("one of a body's 10 numbers");
    text.end_of_line("10 numbers a body");
    text.next_line("a joint count of 25");
    text.integer("a joint count of 25", NtuClip::joints, NtuClip::joints);
    text.end_of_line("a joint count of 25 alone");
    for (std::int64_t v = 0; v < NtuClip::joints; ++v) read_joint(text, body + v * NtuClip::channels);
}

}  // namespace

NtuClip read_ntu_skeleton(std::string_view content) {
    constexpr std::int64_t body_size = NtuClip::joints * NtuClip::channels;
    TextCursor text(content);
    NtuClip clip;
    text.next_line("a frame count");
    clip.frames = text.integer("a frame count from 1 to 100000", 1, NtuClip::max_frames);
    text.end_of_line("a frame count alone");
    float beyond[body_size];
    for (std::int64_t t = 0; t < clip.frames; ++t) {
        text.next_line("a body count");
        const std::int64_t bodies = text.integer("a body count", 0, std::numeric_limits<std::int32_t>::max());
        text.end_of_line("a body count alone");
        clip.coordinates.resize(static_cast<std::size_t>((t + 1) * NtuClip::bodies * body_size));
        float* frame = clip.coordinates.data() + t * NtuClip::bodies * body_size;
        for (std::int64_t m = 0; m < bodies; ++m) read_body(text, m < NtuClip::bodies ? frame + m * body_size : beyond);
    }
    text.end_of_text("the end of the file after its last frame");
    return clip;
}

}  // namespace asma
