#include "core/ntu_skeleton.hpp"

#include "core/text_cursor.hpp"

namespace asma {
namespace {

constexpr int body_fields = 9;  // behind the id: clipped edges, two hands with confidences, restricted, lean x y, state
constexpr int other_fields = 8;  // of a joint, between x y z and its state: depth x y, colour x y, orientation w x y z

void read_joint(TextCursor& text, float* joint, std::uint8_t& state) {
    text.next_line("a joint's 12 numbers");
    text.coordinates_and_more(joint, NtuRecording::channels, "a joint coordinate within float32", other_fields,
                              "one of a joint's 12 numbers");
    state =
        static_cast<std::uint8_t>(text.integer("the last of a joint's 12 numbers, its tracking state 0 to 2", 0, 2));
    text.end_of_line("12 numbers a joint");
}

void read_body(TextCursor& text, NtuRecording& recording) {
    constexpr auto joints = static_cast<std::size_t>(NtuRecording::joints);
    constexpr auto channels = static_cast<std::size_t>(NtuRecording::channels);
    text.next_line("a body's 10 numbers");
    recording.ids.push_back(text.identifier("the first of a body's 10 numbers, its id"));
    text.skip_numbers(body_fields, "one of a body's 10 numbers");
    text.end_of_line("10 numbers a body");
    text.next_line("a joint count of 25");
    text.integer("a joint count of 25", NtuRecording::joints, NtuRecording::joints);
    text.end_of_line("a joint count of 25 alone");
    const std::size_t before = recording.states.size();
    recording.states.resize(before + joints);
    recording.coordinates.resize((before + joints) * channels);
    for (std::size_t v = before; v < before + joints; ++v)
        read_joint(text, recording.coordinates.data() + v * channels, recording.states[v]);
}

}  // namespace

NtuRecording read_ntu_skeleton(std::string_view content) {
    TextCursor text(content);
    NtuRecording recording;
    text.next_line("a frame count");
    const std::int64_t frames = text.integer("a frame count from 1 to 100000", 1, NtuRecording::max_frames);
    text.end_of_line("a frame count alone");
    for (std::int64_t t = 0; t < frames; ++t) {
        text.next_line("a body count");
        const std::int64_t bodies = text.integer("a body count from 0 to 100", 0, NtuRecording::max_bodies);
        text.end_of_line("a body count alone");
        for (std::int64_t m = 0; m < bodies; ++m) read_body(text, recording);
        recording.counts.push_back(static_cast<std::int32_t>(bodies));
    }
    text.end_of_text("the end of the file after its last frame");
    return recording;
}

}  // namespace asma
