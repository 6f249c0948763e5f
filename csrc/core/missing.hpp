// Joints that a recording lacks: found, counted and filled in.
#pragma once

#include <cstdint>
#include <vector>

#include "core/clip_view.hpp"

namespace asma {

// Which joints (M, T, V) a reader marked as missing; strides count bytes. Without data, none.
struct MarkView {
    const std::uint8_t* data = nullptr;
    std::int64_t body_stride = 0, frame_stride = 0, joint_stride = 0;

    bool operator()(std::int64_t body, std::int64_t frame, std::int64_t v) const {
        return data && data[body * body_stride + frame * frame_stride + v * joint_stride];
    }
};

// Of a joint whose body is absent, or dropped; of one that is there; of one that is to be filled in.
enum class JointState : std::uint8_t { absent, known, missing };

struct Missing {
    std::vector<JointState> states;   // (M, T, V), dense
    std::int64_t missing_joints = 0;  // of bodies that stay
    std::int64_t dropped_bodies = 0;  // once a body and frame
};

// A joint is missing where it is marked or one of its channels is not finite. A body that is not absent and misses more
// than half of its joints in a frame is dropped from that frame.
Missing find_missing(const ClipView& clip, const MarkView& marks);

// out: (M, T, V, C), dense. Known joints keep their bits; absent and dropped bodies are zero; missing joints move
// linearly in time between the frames that know them and stand still outside. One that no frame knows takes the place
// of parents[v]; an unknown root (its own parent) that of the nearest joint that some frame knows, the first of
// several. A score that is not finite becomes 0, others stay. Throws std::invalid_argument unless parents form a tree
// of all joints.
void fill_missing(const ClipView& clip, const Missing& missing, const std::vector<std::int32_t>& parents, float* out);

}  // namespace asma
