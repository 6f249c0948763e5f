// A block of one joint at a time, see cpu/int8_block.hpp: its neighbours are gathered, part by part, for as many frames
// as stay in the first cache; the graph convolution's product follows; then the temporal convolution over taps of the
// hidden map, which lies between frames of zeros, as many as the taps reach beyond its ends; and what is beside it.
#include "cpu/int8_block.hpp"

#include "cpu/int8_simd.hpp"

namespace asma::cpu::ASMA_ISA {

namespace {

// out[r, n] of `rows` rows, from row r's taps at x + r · row_step + tap · tap_step, each of `quads` times four
// channels.
struct Product {
    const std::uint8_t* x;
    std::int64_t row_step, tap_step, taps, quads, rows;
    const std::int8_t* packed;
    const std::int32_t* bias;
    const float* scale;
    std::uint8_t* out;
    const std::uint8_t* residual;  // as out, or null
    const float* residual_step;
    std::int64_t columns;
    std::int64_t upper;  // so many taps are of upper halves: what they sum is shifted; 0: none
};

constexpr std::int64_t quad_bytes = int8_quad * int8_panel;  // of weights

// Rows of a tile from three addresses, a fourth row apart: base, base + row, base + 2 · row, base + three rows.
template <int Rows, int Panels>
[[gnu::noinline]] void multiply_tile(const Product& p, std::int64_t row, std::int64_t panel) {
    const std::int64_t step = p.row_step, three = 3 * step, panel_bytes = p.taps * p.quads * quad_bytes;
    const std::uint8_t* tap_x = p.x + row * step;
    const std::int8_t* w = p.packed + panel * panel_bytes;
    Sums sums[Rows][Panels];
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
        for (int n = 0; n < Panels; ++n) sums[r][n] = start(p.bias + (panel + n) * int8_panel);
    for (std::int64_t tap = 0; tap < p.taps; ++tap, tap_x += p.tap_step) {
        if (tap != 0 && tap == p.upper)
#pragma GCC unroll 16
            for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
                for (int n = 0; n < Panels; ++n) sums[r][n] = shifted(sums[r][n]);
        const std::uint8_t* x = tap_x;
        std::int64_t quad = 0;
        const auto at = [&](int r) { return x + r / 4 * 4 * step + (r % 4 == 3 ? three : r % 4 * step); };
#if defined(ASMA_INT8_NEON) && !defined(__ARM_FEATURE_DOTPROD)
        for (; quad + 2 <= p.quads; quad += 2, x += 2 * int8_quad, w += 2 * quad_bytes) {
            const Weights first = load_weights(w), second = load_weights(w + quad_bytes);
#pragma GCC unroll 16
            for (int r = 0; r < Rows; ++r)
                multiply_two(sums[r][0], load_quad(at(r)), load_quad(at(r) + int8_quad), first, second);
        }
#endif
        for (; quad < p.quads; ++quad, x += int8_quad, w += quad_bytes) {
            Weights weights[Panels];
#pragma GCC unroll 4
            for (int n = 0; n < Panels; ++n) weights[n] = load_weights(w + n * panel_bytes);
#pragma GCC unroll 16
            for (int r = 0; r < Rows; ++r) {
                const Quad codes = load_quad(at(r));
#pragma GCC unroll 4
                for (int n = 0; n < Panels; ++n) multiply(sums[r][n], codes, weights[n]);
            }
        }
    }
    // Copies: for all the compiler knows, a store of bytes changes p.
    const std::int64_t columns = p.columns, first = row * columns + panel * int8_panel;
    const float *const scale = p.scale + panel * int8_panel, *const steps = p.residual_step + panel * int8_panel;
    const std::uint8_t* const residual = p.residual ? p.residual + first : nullptr;
    std::uint8_t* const out = p.out + first;
    const std::int64_t last = columns - (panel + Panels - 1) * int8_panel;
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
        for (int n = 0; n < Panels; ++n) {
            const std::int64_t place = r * columns + n * int8_panel;
            store_columns(out + place, finish(sums[r][n]), scale + n * int8_panel,
                          residual ? residual + place : nullptr, steps + n * int8_panel,
                          n + 1 < Panels ? int8_panel : last);
        }
}

template <int Rows, int Panels>
void multiply_some(const Product& p, std::int64_t row, std::int64_t panel, std::int64_t rows) {
    if constexpr (Rows > 1)
        if (rows < Rows) return multiply_some<Rows - 1, Panels>(p, row, panel, rows);
    multiply_tile<Rows, Panels>(p, row, panel);
}

// Rows are shared out evenly over the tiles.
template <int Panels> void multiply_panels(const Product& p, std::int64_t panel) {
    constexpr std::int64_t most = most_rows<Panels>;
    const std::int64_t tiles = (p.rows + most - 1) / most;
    for (std::int64_t i = 0; i < tiles; ++i) {
        const std::int64_t row = p.rows * i / tiles;
        multiply_some<most, Panels>(p, row, panel, p.rows * (i + 1) / tiles - row);
    }
}

void multiply_rows(Product p) {
    if (p.upper == 0 && p.tap_step == p.quads * int8_quad)
        p.quads *= p.taps, p.taps = 1;  // taps that follow each other are one
    const std::int64_t panels = (p.columns + int8_panel - 1) / int8_panel;
    std::int64_t panel = 0;
    if constexpr (most_panels == 3) {  // two at a time take the most rows: large weights are read least often
        for (; panels - panel == 2 || panels - panel > 3; panel += 2) multiply_panels<2>(p, panel);
        if (panels - panel == 3) return multiply_panels<3>(p, panel);
    }
    for (; panel < panels; ++panel) multiply_panels<1>(p, panel);
}

// The same for a convolution of each channel alone.
void multiply_depthwise(const Product& p) {
    const std::int64_t whole = (p.columns + int8_panel - 1) / int8_panel * int8_panel;
    for (std::int64_t row = 0; row < p.rows; ++row)
        for (std::int64_t column = 0; column < p.columns; column += int8_panel) {
            Columns sums = start_columns(p.bias + column);
            for (std::int64_t tap = 0; tap < p.taps; ++tap)
                multiply_columns(sums, p.x + row * p.row_step + tap * p.tap_step + column,
                                 p.packed + tap * whole + column);
            const std::int64_t place = row * p.columns + column;
            store_columns(p.out + place, sums, p.scale + column, p.residual ? p.residual + place : nullptr,
                          p.residual_step + column, p.columns - column);
        }
}

// z of one joint and part: `count` bytes of frames and channels.
void gather(const Int8BlockParams& p, const std::uint8_t* x, std::int64_t list, std::int64_t count, std::uint8_t* z) {
    const std::int32_t begin = p.entry_starts[list], end = p.entry_starts[list + 1];
    const Words scale = same_word(p.gather_scale[list]), zero = same_word(p.gather_zero[list]);
    for (std::int64_t i = 0; i < count; i += 2 * words) {
        Words sum = same_word(0), more = same_word(0);
        for (std::int32_t entry = begin; entry < end; ++entry) {
            const std::uint8_t* const from = x + p.entry_sources[entry] * p.x_joint + i;
            const Words value = same_word(p.entry_values[entry]);
            sum = add_product(sum, load_words(from), value);
            more = add_product(more, load_words(from + words), value);
        }
        store_words(z + i, sum, scale, zero);
        store_words(z + i + words, more, scale, zero);
    }
}

// The same of the first block: z's upper halves, and its lower ones `half` bytes on.
void gather_first(const Int8BlockParams& p, const float* x, std::int64_t list, std::int64_t count, std::uint8_t* z,
                  std::int64_t half) {
    const std::int32_t begin = p.entry_starts[list], end = p.entry_starts[list + 1];
    const Floats zero = same_float(static_cast<float>(p.gather_zero[list]));
    for (std::int64_t i = 0; i < count; i += floats) {
        Floats sum = zero;
        for (std::int32_t entry = begin; entry < end; ++entry)
            sum = add_product(sum, load_floats(x + p.entry_sources[entry] * p.x_joint + i),
                              same_float(p.first_values[entry]));
        store_halves(z + i, z + half + i, sum);
    }
}

Product product_of(const Int8Layer& layer, const std::uint8_t* x, std::int64_t rows, std::uint8_t* out) {
    Product p{};
    p.x = x, p.row_step = layer.stride * layer.channels, p.tap_step = layer.channels, p.taps = layer.taps;
    p.quads = layer.channels / int8_quad, p.rows = rows, p.columns = layer.columns;
    p.packed = layer.packed, p.bias = layer.bias, p.scale = layer.scale, p.out = out;
    p.residual_step = layer.scale;  // any floats: read with a residual alone
    return p;
}

void convolve(const Product& p, bool depthwise) {
    if (depthwise)
        multiply_depthwise(p);
    else
        multiply_rows(p);
}

// The hidden map (left + T + right, O) of one joint.
void convolve_graph(const Int8BlockParams& p, std::int64_t row, std::int64_t joint) {
    const Int8Layer& conv = p.convs[0];
    const std::int64_t columns = p.graph.columns, channels = p.graph.channels, part = int8_part(p.block, channels);
    const std::int64_t row_start = row * p.joints * p.x_joint;
    std::uint8_t* const hidden = p.hidden + conv.left * columns;
    __builtin_memset(p.hidden, 0, static_cast<std::size_t>(conv.left * columns));
    for (std::int64_t begin = 0; begin < p.frames; begin += p.block) {
        const std::int64_t count = p.frames - begin < p.block ? p.frames - begin : p.block;
        for (std::int64_t k = 0; k < p.parts; ++k) {
            const std::int64_t list = joint * p.parts + k, from = row_start + begin * channels;
            std::uint8_t* const z = p.gathered + k * part;
            if (p.first_x)
                gather_first(p, p.first_x + from, list, count * channels, z, p.parts * part);
            else
                gather(p, p.x + from, list, count * channels, z);
        }
        Product product = product_of(p.graph, p.gathered, count, hidden + begin * columns);
        product.tap_step = part, product.upper = p.first_x ? p.parts : 0;
        product.bias += joint * ((columns + int8_panel - 1) / int8_panel * int8_panel);
        multiply_rows(product);
    }
    __builtin_memset(hidden + p.frames * columns, 0, static_cast<std::size_t>(conv.right * columns));
}

}  // namespace

void int8_block(const Int8BlockParams& p, std::int64_t begin, std::int64_t end) {
    for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t row = item / p.joints, joint = item % p.joints;
        const std::uint8_t* const own = p.x + item * p.x_joint;
        const std::uint8_t *residual = p.adds_input ? own : nullptr, *hidden = p.hidden;
        convolve_graph(p, row, joint);
        if (p.shortcut) {
            convolve(product_of(*p.shortcut, own, p.out_frames, p.beside), false);
            residual = p.beside;
        }
        for (std::int64_t i = 0; i < p.conv_count; ++i) {
            const bool last = i + 1 == p.conv_count;
            Product product =
                product_of(p.convs[i], hidden, p.out_frames, last ? p.out + item * p.out_joint : p.between);
            if (last) product.residual = residual, product.residual_step = p.residual_step;
            convolve(product, p.convs[i].depthwise);
            hidden = p.between;
        }
    }
}

void int8_input(const Int8InputParams& p, std::int64_t begin, std::int64_t end) {
    typedef float Four __attribute__((vector_size(16)));
    const std::int64_t padded = int8_padded(p.channels), joints = p.joints, channels = p.channels, step = p.x_joint;
    for (std::int64_t item = begin; item < end; ++item) {
        const float* const from = p.clips + item * joints * channels;
        float* const to = p.x + (item / p.frames * joints * step) + item % p.frames * padded;
        for (std::int64_t v = 0; v < joints; ++v)
            for (std::int64_t c = 0; c < padded; c += int8_quad) {
                Four numbers, scale, shift;
                __builtin_memcpy(&numbers, from + v * channels + c, sizeof numbers);
                __builtin_memcpy(&scale, p.scale + v * padded + c, sizeof scale);
                __builtin_memcpy(&shift, p.shift + v * padded + c, sizeof shift);
                numbers = numbers * scale;
                numbers = numbers + shift;
                __builtin_memcpy(to + v * step + c, &numbers, sizeof numbers);
            }
    }
}

void int8_sum(const Int8SumParams& p, std::int64_t begin, std::int64_t end) {
    constexpr std::int64_t together = 256;  // places whose codes int16 sums
    const Words one = same_word(1);
    for (std::int64_t first = begin * int8_quad; first < end * int8_quad; first += words) {
        const std::int64_t left = end * int8_quad - first, count = left < words ? left : words;
        for (std::int64_t c = 0; c < count; ++c) p.sums[first + c] = 0;
        for (std::int64_t place = 0; place < p.places; place += together) {
            const std::int64_t last = p.places - place < together ? p.places : place + together;
            Words some = same_word(0);
            for (std::int64_t i = place; i < last; ++i)
                some = add_product(some, load_words(p.x + i * p.channels + first), one);
            std::int16_t sums[words];
            __builtin_memcpy(sums, &some, sizeof sums);
            for (std::int64_t c = 0; c < count; ++c) p.sums[first + c] += sums[c];
        }
    }
}

}  // namespace asma::cpu::ASMA_ISA
