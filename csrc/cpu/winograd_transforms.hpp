// The transforms of cpu/winograd.hpp, of vectors or of single numbers.
#pragma once

#include "cpu/conv_rows.hpp"
#include "cpu/micro_kernel.hpp"
#include "cpu/simd.hpp"
#include "cpu/temporal_conv.hpp"
#include "cpu/winograd.hpp"

namespace asma::cpu::ASMA_ISA {

inline constexpr int points = winograd_points, tile = winograd_tile, outer_points = nested_points;

// ---- whole vectors of columns, then single ones ----

struct Wide {
    using Number = Vec;
    static Vec load(const real* from) { return ASMA_ISA::load(from); }
    static void store(real* to, const Vec& value) { ASMA_ISA::store(to, value); }
};

struct One {
    using Number = real;
    static real load(const real* from) { return *from; }
    static void store(real* to, real value) { *to = value; }
};

template <class Body> static inline void over_columns(std::int64_t count, const Body& body) {
    std::int64_t n = 0;
    for (; n + lanes <= count; n += lanes) body(Wide{}, n);
    for (; n < count; ++n) body(One{}, n);
}

// to[i · stride] = value i.
static inline void scatter(real* to, std::int64_t stride, const Vec& value) {
    for (int lane = 0; lane < lanes; ++lane) to[lane * stride] = value[lane];
}
static inline void scatter(real* to, std::int64_t, real value) {
    *to = value;
}

// ---- along the frames of a tile: F(3, 3) ----

template <int point, class T> static inline T input_point(const T (&d)[winograd_frames]) {
    if constexpr (point == 0) return (d[0] + d[3]) - (d[1] + d[2]) * real{1.5};
    if constexpr (point == 1) return (d[3] - d[2]) - d[1] * real{2};
    if constexpr (point == 2) return (d[3] + d[1]) - d[2] * real{2.5};
    if constexpr (point == 3) return (d[2] - d[1]) * real{0.5} + d[3];
    return (d[1] + d[4]) - (d[2] + d[3]) * real{1.5};
}

template <class T> static inline void output_frames(const T (&m)[points], T (&y)[tile]) {
    y[0] = (m[0] + m[1]) + (m[2] + m[3]);
    y[1] = (m[1] * real{0.5} - m[2]) + m[3] * real{2};
    y[2] = (m[1] * real{0.25} + m[2]) + (m[3] * real{4} + m[4]);
}

template <int point, class T> static inline T gradient_point(const T (&g)[tile]) {
    if constexpr (point == 0) return g[0];
    if constexpr (point == 1) return (g[2] * real{0.25} + g[1] * real{0.5}) + g[0];
    if constexpr (point == 2) return (g[0] + g[2]) - g[1];
    if constexpr (point == 3) return (g[1] * real{2} + g[2] * real{4}) + g[0];
    return g[2];
}

// In double: once a weight, and the error of a product of few channels is mostly theirs.
static inline void weight_points(const double (&w)[tile], double (&u)[points]) {
    u[0] = w[0];
    u[1] = (4 * w[0] + 2 * w[1] + w[2]) * (-2.0 / 9);
    u[2] = (w[0] - w[1] + w[2]) * (-2.0 / 9);
    u[3] = (w[0] + 2 * w[1] + 4 * w[2]) * (1.0 / 9);
    u[4] = w[2];
}

// Taps [first, first + 3) of one channel of a panel's columns, zero where there is no tap or no column.
static inline void read_taps(const real* weight, std::int64_t column_stride, std::int64_t tap_stride,
                             std::int64_t columns, std::int64_t first, std::int64_t taps,
                             double (&to)[tile][panel_columns]) {
    for (int i = 0; i < tile; ++i) {
        const std::int64_t some = first + i < taps ? columns : 0;
        const real* from = weight + (first + i) * tap_stride;
        for (std::int64_t n = 0; n < some; ++n) to[i][n] = static_cast<double>(from[n * column_stride]);
        for (std::int64_t n = some; n < panel_columns; ++n) to[i][n] = 0;
    }
}

// The points of a panel's columns: one loop of vectors.
static inline void weight_points(const double (&taps)[tile][panel_columns], double (&to)[points][panel_columns]) {
    for (std::int64_t n = 0; n < panel_columns; ++n) {
        const double w[tile] = {taps[0][n], taps[1][n], taps[2][n]};
        double u[points];
        weight_points(w, u);
        for (int point = 0; point < points; ++point) to[point][n] = u[point];
    }
}

static inline void store_columns(const double* from, std::int64_t width, real* to) {
    for (std::int64_t n = 0; n < width; ++n) to[n] = static_cast<real>(from[n]);
}

// Gᵀ: the gradients of three taps.
template <class T> static inline void tap_gradients(const T (&u)[points], T (&w)[tile]) {
    constexpr real ninth = static_cast<real>(1.0 / 9);
    w[0] = ((u[3] - u[2] * real{2}) - u[1] * real{8}) * ninth + u[0];
    w[1] = ((u[2] + u[3]) * real{2} - u[1] * real{4}) * ninth;
    w[2] = (u[3] * real{4} - (u[1] + u[2]) * real{2}) * ninth + u[4];
}

// ---- along the positions of a pair of tiles: F(2, 3) ----

template <class T> static inline void outer_input(const T (&d)[outer_points], T (&v)[outer_points]) {
    v[0] = d[0] - d[2];
    v[1] = d[1] + d[2];
    v[2] = d[2] - d[1];
    v[3] = d[1] - d[3];
}

template <class T> static inline void outer_output(const T (&m)[outer_points], T (&y)[2]) {
    y[0] = (m[0] + m[1]) + m[2];
    y[1] = (m[1] - m[2]) - m[3];
}

template <class T> static inline void outer_gradient(const T (&g)[2], T (&h)[outer_points]) {
    h[0] = g[0];
    h[1] = g[0] + g[1];
    h[2] = g[0] - g[1];
    h[3] = -g[1];
}

static inline void outer_weights(const double (&w)[tile], double (&u)[outer_points]) {
    const double outer = w[0] + w[2];
    u[0] = w[0];
    u[1] = (outer + w[1]) * 0.5;
    u[2] = (outer - w[1]) * 0.5;
    u[3] = w[2];
}

template <class T> static inline void outer_weight_gradients(const T (&u)[outer_points], T (&w)[tile]) {
    const T half = (u[1] + u[2]) * real{0.5};
    w[0] = u[0] + half;
    w[1] = (u[1] - u[2]) * real{0.5};
    w[2] = half + u[3];
}

// ---- frames in and out ----

// Where the loads of a group begin.
static inline ConvLoad<real> load_of_group(ConvLoad<real> load, std::int64_t group, std::int64_t channels) {
    if (load.scale) load.scale += group * channels, load.shift += group * channels;
    return load;
}

// A number of a source frame as the convolution reads it: zero where there is no frame.
template <bool loads, class Step> static inline typename Step::Number read_source(const Step&, const real* frame,
                                                                                  std::int64_t at, std::int64_t c,
                                                                                  const ConvLoad<real>& load) {
    if (!frame) return typename Step::Number{};
    const typename Step::Number number = Step::load(frame + at);
    if constexpr (loads) return relu(Step::load(load.scale + c) * number + Step::load(load.shift + c));
    return number;
}

template <bool given> struct Choice {
    static constexpr bool value = given;
};

// Calls body(loads, joints, channels) so that channels that all read alike are one long joint.
template <class Body> static inline void by_load(const ConvLoad<real>& load, std::int64_t joint, std::int64_t joints,
                                                 std::int64_t channels, const Body& body) {
    if (load.scale) return body(Choice<true>{}, joints, channels);
    if (joint != channels) return body(Choice<false>{}, joints, channels);
    body(Choice<false>{}, std::int64_t{1}, joints * channels);
}

// Output frames of a tile, those that there are, from its points.
static inline void finish_tile(const real* products, std::int64_t point_stride, std::int64_t joints,
                               std::int64_t columns, const real* bias, std::int64_t frames, real* out,
                               std::int64_t out_row) {
    for (std::int64_t v = 0; v < joints; ++v, products += columns, out += out_row)
        over_columns(columns, [&](auto step, std::int64_t n) {
            using Step = decltype(step);
            typename Step::Number m[points], y[tile];
            for (int p = 0; p < points; ++p) m[p] = Step::load(products + p * point_stride + n);
            output_frames(m, y);
            const typename Step::Number start = bias ? Step::load(bias + n) : typename Step::Number{};
            for (int i = 0; i < tile; ++i)
                if (i < frames) Step::store(out + i * joints * out_row + n, y[i] + start);
        });
}

}  // namespace asma::cpu::ASMA_ISA
