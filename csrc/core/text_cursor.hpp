// What the text readers share: tokens of one line after another, numbers, and an error that says where and why.
#pragma once

#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>

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
// a UTF-8 byte-order mark at the start is passed over. Numbers are read independently of the locale.
class TextCursor {
public:
    explicit TextCursor(std::string_view text) : rest_(text) {
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
        std::int64_t value = 0;
        const auto [end, status] = std::from_chars(token.data(), token.data() + token.size(), value);
        if (status != std::errc() || end != token.data() + token.size() || value < low || value > high)
            fail(expected, quoted(token));
        return value;
    }

    // Any number, infinities and NaN included.
    double number(const char* expected) {
        std::string_view token = next_token(expected);
        const std::string_view whole = token;
        if (token.front() == '+') token.remove_prefix(1);
        double value = 0;
        const auto [end, status] = std::from_chars(token.data(), token.data() + token.size(), value);
        if (status != std::errc() || end != token.data() + token.size()) fail(expected, quoted(whole));
        return value;
    }

    // A finite number that float32 can hold.
    float coordinate(const char* expected) {
        const std::string_view before = tokens_;
        const double value = number(expected);
        if (!(std::fabs(value) <= std::numeric_limits<float>::max())) {
            tokens_ = before;
            fail(expected, quoted(next_token(expected)));
        }
        return static_cast<float>(value);
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
    void skip_blanks() {
        const std::size_t start = tokens_.find_first_not_of(" \t\r");
        tokens_.remove_prefix(start == std::string_view::npos ? tokens_.size() : start);
    }

    std::string_view next_token(const char* expected) {
        skip_blanks();
        if (tokens_.empty()) fail(expected, "the end of the line");
        const std::string_view token = tokens_.substr(0, tokens_.find_first_of(" \t\r"));
        tokens_.remove_prefix(token.size());
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
    std::int64_t line_ = 0;
};

}  // namespace asma
