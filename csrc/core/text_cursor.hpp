// What the text readers share: tokens of one line after another, numbers, and an error that says where and why.
#pragma once

#include <bit>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace asma {

// A file that is not what its format asks for.
struct TextFormatError : std::runtime_error {
    TextFormatError(std::int64_t line, std::string expected, std::string found)
        : std::runtime_error("line " + std::to_string(line) + ": expected " + expected + ", found " + found),
          line(line),
          expected(std::move(expected)),
          found(std::move(found)) {}

    std::int64_t line;  // from 1
    std::string expected, found;
};

// Reads text line by line, a line token by token. Lines end in \n or \r\n, tokens are separated by blanks and tabs, and
// a UTF-8 byte-order mark at the start is passed over. Numbers are read independently of the locale. Plain decimals,
// which are nearly all of a recording, are taken eight digits at a time; the library's own parser reads the rest.
class TextCursor {
public:
    explicit TextCursor(std::string_view text) : rest_(text), text_end_(text.data() + text.size()) {
        if (rest_.substr(0, 3) == "\xEF\xBB\xBF") rest_.remove_prefix(3);
    }

    std::int64_t line() const { return line_; }

    // Moves to the next line; `expected` says of what, for the error at the end of the text.
    void next_line(const char* expected) {
        ++line_;
        if (rest_.empty()) fail(expected, "the end of the file");
        const std::size_t end = rest_.find('\n');
        tokens_ = rest_.substr(0, end);
        rest_.remove_prefix(end == std::string_view::npos ? rest_.size() : end + 1);
    }

    // An integer in [low, high].
    std::int64_t integer(const char* expected, std::int64_t low, std::int64_t high) {
        const std::string_view token = next_token(expected);
        const auto value = whole<std::int64_t>(token, expected);
        if (value < low || value > high) fail(expected, quoted(token));
        return value;
    }

    // A whole number from 0 to 2^64 - 1.
    std::uint64_t identifier(const char* expected) { return whole<std::uint64_t>(next_token(expected), expected); }

    // Any number, infinities and NaN included.
    double number(const char* expected) {
        skip_blanks();
        const char* const line_end = tokens_.data() + tokens_.size();
        Decimal decimal;
        double value;
        if (!plain_decimal(tokens_.data(), line_end, decimal) || !decimal_value(decimal, value))
            return any_number(expected);
        tokens_ = {decimal.end, static_cast<std::size_t>(line_end - decimal.end)};
        return value;
    }

    // The coordinates at the start of a line, then passes over some more numbers: the form of those is checked, the
    // value of a plain decimal never worked out.
    void coordinates_and_more(float* coordinates, int count, const char* expected, int more,
                              const char* expected_more) {
        if (decimals_at_once(coordinates, count, more)) return;
        for (int i = 0; i < count; ++i) coordinates[i] = coordinate(expected);
        skip_numbers(more, expected_more);
    }

    void skip_numbers(int count, const char* expected) {
        const char *at = tokens_.data(), *const line_end = at + tokens_.size();
        for (; count > 0; --count) {
            while (at != line_end && blank(*at)) ++at;
            Decimal decimal;
            if (plain_decimal(at, line_end, decimal)) [[likely]] {
                at = decimal.end;
                continue;
            }
            tokens_ = {at, static_cast<std::size_t>(line_end - at)};
            any_number(expected);
            at = tokens_.data();
        }
        tokens_ = {at, static_cast<std::size_t>(line_end - at)};
    }

    // A number that float32 can hold: NaN and infinities as they stand, but nothing finite that would overflow.
    float coordinate(const char* expected) {
        const std::string_view before = tokens_;
        const double value = number(expected);
        const auto rounded = static_cast<float>(value);
        if (std::isinf(rounded) && !std::isinf(value)) {
            tokens_ = before;
            fail(expected, quoted(next_token(expected)));
        }
        return rounded;
    }

    void end_of_line(const char* expected) {
        skip_blanks();
        if (!tokens_.empty()) fail(expected, "more: " + quoted(next_token(expected)));
    }

    // Only blank lines may follow.
    void end_of_text(const char* expected) {
        while (!rest_.empty()) {
            next_line(expected);
            end_of_line(expected);
        }
    }

    [[noreturn]] void fail(const char* expected, std::string found) const {
        throw TextFormatError(line_, expected, std::move(found));
    }

private:
    // [sign] digits [. digits], with a digit at least, up to a blank or the end of the line.
    struct Decimal {
        const char *whole, *fraction, *end;
        std::int64_t whole_digits, fraction_digits;
        bool negative;
    };

    static bool blank(char letter) { return letter == ' ' || letter == '\t' || letter == '\r'; }

    bool plain_decimal(const char* at, const char* line_end, Decimal& decimal) const {
        if (at == line_end) return false;
        decimal.negative = *at == '-';
        at += decimal.negative || *at == '+';
        decimal.whole = at;
        decimal.whole_digits = digits_at(at);
        decimal.fraction = at += decimal.whole_digits;
        decimal.fraction_digits = 0;
        if (at != line_end && *at == '.') {
            decimal.fraction = ++at;
            decimal.fraction_digits = digits_at(at);
            at += decimal.fraction_digits;
        }
        decimal.end = at;
        return (at == line_end || blank(*at)) && decimal.whole_digits + decimal.fraction_digits > 0;
    }

    // One rounding only: a mantissa of at most 2^53 and a power of ten up to 10^22 are doubles, and so is their
    // correctly rounded quotient (Clinger, PLDI 1990). False for longer numbers.
    bool decimal_value(const Decimal& decimal, double& value) const {
        static constexpr std::uint64_t powers[] = {1,       10,        100,        1'000,      10'000,
                                                   100'000, 1'000'000, 10'000'000, 100'000'000};
        if (decimal.whole_digits > 8 || decimal.fraction_digits > 8) return false;
        const std::uint64_t power = powers[decimal.fraction_digits];
        const std::uint64_t mantissa = up_to_eight(decimal.whole, decimal.whole_digits) * power +
                                       up_to_eight(decimal.fraction, decimal.fraction_digits);
        if (mantissa > std::uint64_t{1} << 53) return false;
        value = static_cast<double>(mantissa) / static_cast<double>(power);
        if (decimal.negative) value = -value;
        return true;
    }

    // The next eight bytes, the first lowest; zeros behind the end of the text.
    std::uint64_t eight_bytes(const char* at) const {
        std::uint64_t bytes = 0;
        if (text_end_ - at >= 8) [[likely]]
            std::memcpy(&bytes, at, 8);
        else
            std::memcpy(&bytes, at, static_cast<std::size_t>(text_end_ - at));
        if constexpr (std::endian::native == std::endian::big) bytes = __builtin_bswap64(bytes);
        return bytes;
    }

#ifdef __SSE2__
    // What 64 bytes are, a bit each.
    struct Letters {
        std::uint64_t digits = 0, points = 0, signs = 0, blanks = 0;

        explicit Letters(const char* at) {
            for (int part = 0; part < 64; part += 16) {
                const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + part));
                const __m128i values = _mm_sub_epi8(bytes, _mm_set1_epi8('0'));
                digits |= bits(_mm_cmpeq_epi8(values, _mm_min_epu8(values, _mm_set1_epi8(9)))) << part;
                points |= bits(_mm_cmpeq_epi8(bytes, _mm_set1_epi8('.'))) << part;
                signs |= bits(_mm_cmpeq_epi8(bytes, _mm_set1_epi8('-'))) << part;
                blanks |= bits(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(' '))) << part;
            }
        }

        static std::uint64_t bits(__m128i mask) { return static_cast<std::uint32_t>(_mm_movemask_epi8(mask)); }
    };

    // Where all that is left of the line is [-] digits [. digits], again and again with blanks between, and at most one
    // more than asked for: takes the first `count` and passes over `more`. Else does nothing. One token after another,
    // as above, waits for where the last one ended; here no letter waits for another, which is more than twice as fast.
    bool decimals_at_once(float* coordinates, int count, int more) {
        const char* const at = tokens_.data();
        const std::size_t size = tokens_.size() - (!tokens_.empty() && tokens_.back() == '\r');
        if (size >= 128 || text_end_ - at < 128) return false;
        std::uint64_t wrong = 0, starts[2], all_points[2], all_blanks[2];
        std::uint64_t digit_before = 0, point_before = 0, blank_before = 1, carry = 0;  // into the second half
        for (std::size_t half = 0; half < 2; ++half) {
            Letters letters(at + 64 * half);
            const std::size_t used = size <= 64 * half ? 0 : size - 64 * half;
            const std::uint64_t line = used < 64 ? (std::uint64_t{1} << used) - 1 : ~std::uint64_t{0};
            const std::uint64_t digits = letters.digits & line, points = letters.points & line;
            const std::uint64_t signs = letters.signs & line, blanks = letters.blanks | ~line;
            const std::uint64_t behind_digits = digits << 1 | digit_before, behind_points = points << 1 | point_before;
            const std::uint64_t behind_blanks = blanks << 1 | blank_before;
            wrong |= ~(digits | points | signs | blanks);
            wrong |= signs & ~behind_blanks;
            wrong |= points & ~behind_digits;
            wrong |= blanks & ~(behind_digits | behind_blanks);
            // A one added where digits follow a point ripples through them to what ends them: no second point may.
            std::uint64_t ends;
            std::uint64_t over = __builtin_add_overflow(digits, behind_points, &ends);
            over |= static_cast<std::uint64_t>(__builtin_add_overflow(ends, carry, &ends));
            wrong |= ends & ~digits & points;
            starts[half] = ~blanks & behind_blanks, all_points[half] = points, all_blanks[half] = blanks;
            digit_before = digits >> 63, point_before = points >> 63, blank_before = blanks >> 63, carry = over;
        }
        const int first_half = std::popcount(starts[0]), all = first_half + std::popcount(starts[1]);
        const int passed = count + more;
        if (wrong || first_half <= count || (all != passed && all != passed + 1)) return false;
        for (int i = 0; i < count; ++i, starts[0] &= starts[0] - 1) {
            const std::uint64_t onward = ~(starts[0] & (~starts[0] + 1)) + 1;
            const int end = std::countr_zero(all_blanks[0] & onward);
            const std::uint64_t point = all_points[0] & onward & ((std::uint64_t{1} << end) - 1);
            const int whole_end = point ? std::countr_zero(point) : end;
            Decimal decimal;
            decimal.whole = at + std::countr_zero(starts[0]);
            decimal.negative = *decimal.whole == '-';
            decimal.whole += decimal.negative;
            decimal.whole_digits = at + whole_end - decimal.whole;
            decimal.fraction = at + whole_end + (point != 0);
            decimal.end = at + end;
            decimal.fraction_digits = decimal.end - decimal.fraction;
            double value;
            if (!decimal_value(decimal, value)) return false;
            coordinates[i] = static_cast<float>(value);
        }
        const int last = starts[1] ? 127 - std::countl_zero(starts[1]) : 63 - std::countl_zero(starts[0]);
        tokens_.remove_prefix(all == passed ? size : static_cast<std::size_t>(last));
        return true;
    }
#else
    bool decimals_at_once(float*, int, int) { return false; }
#endif

    // The highest bit of each of the next eight bytes that is no digit.
    std::uint64_t no_digits(const char* at) const {
        constexpr std::uint64_t ones = 0x0101010101010101;
        const std::uint64_t digits = eight_bytes(at) ^ (ones * '0');
        return (((digits & (ones * 0x7F)) + ones * (0x80 - 10)) | digits) & (ones * 0x80);
    }

    // How many digits stand there. A line's end is no digit, so this never runs past the line.
    std::int64_t digits_at(const char* at) const {
        std::int64_t count = 0;
        std::uint64_t others = no_digits(at);
        while (!others) others = no_digits(at + (count += 8));
        return count + std::countr_zero(others) / 8;
    }

    // The value of at most eight digits: pairs, then fours, then all.
    std::uint64_t up_to_eight(const char* at, std::int64_t count) const {
        if (count == 0) return 0;
        std::uint64_t digits = (eight_bytes(at) ^ 0x3030303030303030) << (64 - 8 * count);
        digits = (digits * 10 + (digits >> 8)) & 0x00FF00FF00FF00FF;
        digits = (digits * 100 + (digits >> 16)) & 0x0000FFFF0000FFFF;
        return (digits * 10'000 + (digits >> 32)) & 0x00000000FFFFFFFF;
    }

    double any_number(const char* expected) {
        std::string_view token = next_token(expected);
        const std::string_view shown = token;
        if (token.front() == '+' && token.substr(1, 1) != "-") token.remove_prefix(1);
        double value = 0;
        const auto [end, status] = std::from_chars(token.data(), token.data() + token.size(), value);
        if (status != std::errc() || end != token.data() + token.size()) fail(expected, quoted(shown));
        return value;
    }

    template <class Integer> Integer whole(std::string_view token, const char* expected) const {
        Integer value = 0;
        const auto [end, status] = std::from_chars(token.data(), token.data() + token.size(), value);
        if (status != std::errc() || end != token.data() + token.size()) fail(expected, quoted(token));
        return value;
    }

    void skip_blanks() {
        std::size_t start = 0;
        while (start < tokens_.size() && blank(tokens_[start])) ++start;
        tokens_.remove_prefix(start);
    }

    std::string_view next_token(const char* expected) {
        skip_blanks();
        if (tokens_.empty()) fail(expected, "the end of the line");
        std::size_t size = 1;
        while (size < tokens_.size() && !blank(tokens_[size])) ++size;
        const std::string_view token = tokens_.substr(0, size);
        tokens_.remove_prefix(size);
        return token;
    }

    // Shown in an error: short, and in printable ASCII whatever the file holds.
    static std::string quoted(std::string_view token) {
        constexpr std::size_t longest = 40;
        std::string shown = "'";
        for (const char letter : token.substr(0, longest)) shown += letter >= ' ' && letter <= '~' ? letter : '?';
        return shown + (token.size() > longest ? "…'" : "'");
    }

    std::string_view rest_, tokens_;
    const char* text_end_;
    std::int64_t line_ = 0;
};

}  // namespace asma
