// Feeds mutations of small well-formed texts to the C++ text readers: each must be read, into arrays whose sizes agree,
// or refused with TextFormatError. Built with the address and undefined-behaviour sanitizers by test_fuzz.py.
//
//     fuzz_text_readers TARGET MUTATIONS
//
// prints how many were read and refused. The same arguments give the same mutations everywhere. Another reader is a
// seed text, a function that reads and checks, and a line in `targets`.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "core/ntu_skeleton.hpp"
#include "core/text_cursor.hpp"

namespace {

using Random = std::mt19937_64;

void must(bool holds, const char* what) {
    if (!holds) throw std::logic_error(what);
}

// ---- targets ----

struct Target {
    std::string seed;
    void (*read_and_check)(std::string_view);
};

std::string ntu_seed() {
    std::ostringstream text;
    const int bodies[] = {1, 0, 2, 3};
    text << std::size(bodies) << '\n';
    for (int t = 0; t < static_cast<int>(std::size(bodies)); ++t) {
        text << bodies[t] << '\n';
        for (int m = 0; m < bodies[t]; ++m) {
            text << 72057594037931101 + m << " 0 1 1 1 1 0 0.02764709 0.05745083 2\n25\n";
            for (int v = 0; v < 25; ++v)
                text << 0.25 * m - 0.3 << ' ' << v * 0.03125 << ' ' << 3.5 + t
                     << (v % 5 ? " 277.419 191.8218 1036.233 519.1677 -0.2059419 0.05349901 0.9692109 -1.2e-05 "
                               : " 277.419 191.8218 -inf nan 0 0 0 0 ")
                     << v % 3 << '\n';
        }
    }
    return text.str();
}

void read_ntu(std::string_view text) {
    using Recording = asma::NtuRecording;
    const Recording read = asma::read_ntu_skeleton(text);
    const auto joints = static_cast<std::size_t>(Recording::joints), bodies = read.ids.size();
    std::size_t counted = 0;
    for (const std::int32_t count : read.counts) {
        must(count >= 0 && count <= Recording::max_bodies, "a count of bodies is out of range");
        counted += static_cast<std::size_t>(count);
    }
    must(!read.counts.empty() && read.counts.size() <= static_cast<std::size_t>(Recording::max_frames),
         "the number of frames is out of range");
    must(counted == bodies, "the frames' bodies do not add up to the ids");
    must(read.states.size() == bodies * joints, "the states do not fit the ids");
    must(read.coordinates.size() == bodies * joints * static_cast<std::size_t>(Recording::channels),
         "the coordinates do not fit the ids");
    for (const std::uint8_t state : read.states) must(state <= 2, "a tracking state is out of range");
    must(read.coordinates.capacity() * sizeof(float) <= 1024 + 2 * text.size(), "memory grew beyond the text's");
}

std::map<std::string, Target> targets() {
    return {{"ntu", {ntu_seed(), read_ntu}}};
}

// ---- mutations ----

std::size_t below(Random& random, std::size_t limit) {
    return limit ? random() % limit : 0;
}

std::vector<std::string> split(const std::string& text, char by) {
    std::vector<std::string> parts;
    std::istringstream stream(text);
    for (std::string part; std::getline(stream, part, by);) parts.push_back(part);
    return parts;
}

std::string joined(const std::vector<std::string>& parts, char by) {
    std::string text;
    for (const std::string& part : parts) text += part + by;
    return text;
}

void mutate_line(Random& random, std::string& line) {
    static const std::string hostile[] = {
        "",
        "-",
        "+",
        ".",
        "..1",
        "1..2",
        "1.2.3",
        "--1",
        "1-",
        "99999999999999999999",
        "100001",
        "-1",
        "1e39",
        "1e-9",
        "1e999",
        "nan",
        "-inf",
        "0x10",
        "25",
        "2147483647",
        "18446744073709551616",
        "3",
        "\r",
        "\t",
        "1,5",
        "\xff",
        "infinity",
        "+.5",
        "5.",
        "1e",
        "e5",
        "١",
        "1 2",
        std::string("\0", 1),
        std::string(200, '7'),
        "0." + std::string(150, '3'),
        std::string(130, ' '),
    };
    std::vector<std::string> tokens = split(line, ' ');
    if (tokens.empty()) tokens.emplace_back();
    std::string& token = tokens[below(random, tokens.size())];
    switch (below(random, 4)) {
        case 0:
            std::swap(token, tokens[below(random, tokens.size())]);
            break;
        case 1:
            token = hostile[below(random, std::size(hostile))];
            break;
        case 2:
            token.insert(below(random, token.size() + 1), 1, "0123456789.-+eE \t\r"[below(random, 18)]);
            break;
        default:
            token.erase(below(random, token.size()), 1 + below(random, 3));
    }
    line = joined(tokens, ' ');
    if (below(random, 2)) line.pop_back();
}

void mutate(Random& random, std::string& text) {
    if (text.empty()) return;
    switch (below(random, 8)) {
        case 0:
            text.resize(below(random, text.size()));
            return;
        case 1:
            text[below(random, text.size())] ^= static_cast<char>(1 << below(random, 8));
            return;
        case 2:
            text[below(random, text.size())] = static_cast<char>(random());
            return;
        case 3:
            text.insert(below(random, 2) ? 0 : below(random, text.size()), "\xEF\xBB\xBF");
            return;
        default:
            break;
    }
    std::vector<std::string> lines = split(text, '\n');
    const std::size_t at = below(random, lines.size()), other = below(random, lines.size());
    const auto place = lines.begin() + static_cast<std::ptrdiff_t>(at);
    switch (below(random, 6)) {
        case 0:
            lines.erase(place);
            break;
        case 1:
            lines.insert(place, std::string(lines[other]));
            break;
        case 2:
            std::swap(lines[at], lines[other]);
            break;
        default:
            mutate_line(random, lines[at]);
    }
    text = joined(lines, '\n');
}

}  // namespace

int main(int argc, char** argv) {
    const auto known = targets();
    if (argc != 3 || !known.count(argv[1])) {
        std::cerr << "usage: fuzz_text_readers TARGET MUTATIONS; targets:";
        for (const auto& entry : known) std::cerr << ' ' << entry.first;
        std::cerr << '\n';
        return 2;
    }
    const Target& target = known.at(argv[1]);
    target.read_and_check(target.seed);
    long read = 0, refused = 0;
    for (long trial = 0; trial < std::atol(argv[2]); ++trial) {
        Random random(static_cast<std::uint64_t>(trial));
        std::string text = target.seed;
        for (std::size_t left = 1 + below(random, 3); left > 0; --left) mutate(random, text);
        const auto exact = std::make_unique<char[]>(text.size());  // so that one byte too far is caught
        text.copy(exact.get(), text.size());
        try {
            target.read_and_check({exact.get(), text.size()});
            ++read;
        } catch (const asma::TextFormatError& error) {
            must(error.line >= 1 && !error.expected.empty() && !error.found.empty(), "an error says too little");
            ++refused;
        } catch (const std::exception& error) {
            std::cerr << "mutation " << trial << ": " << error.what() << '\n' << text << '\n';
            return 1;
        }
    }
    std::cout << read << ' ' << refused << '\n';
}
