#include "edge/model.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>
#include <type_traits>

#include "cpu/int8_block.hpp"

namespace asma::edge {
namespace {

using Json = nlohmann::json;

constexpr std::size_t longest_header = std::size_t{1} << 24, largest_file = std::size_t{1} << 30;
constexpr std::int64_t most_joints = 1 << 10, most_channels = 1 << 14, most_taps = 1 << 10, most_blocks = 1 << 8;
constexpr std::int64_t most_parts = 1 << 6, most_classes = 1 << 20, most_frames = 1 << 16, most_stride = 1 << 8;
constexpr std::int64_t most_bodies = 1 << 6;
constexpr std::size_t longest_message = 300;
constexpr const char* key = "asma_fast.edge";
constexpr std::int64_t format = 1;

// What the file holds may be no text at all.
[[noreturn]] void refuse(std::string what) {
    if (what.size() > longest_message) what.resize(longest_message);
    std::replace_if(what.begin(), what.end(), [](char one) { return one < ' ' || one > '~'; }, '?');
    throw Error(what);
}

// ---- the description ----

const Json& field(const Json& object, const std::string& name, const std::string& where) {
    if (!object.is_object()) refuse(where + " must be an object");
    const auto found = object.find(name);
    if (found == object.end()) refuse(where + " must have '" + name + "'");
    return *found;
}

std::int64_t whole(const Json& object, const std::string& name, const std::string& where, std::int64_t least,
                   std::int64_t most) {
    const Json& value = field(object, name, where);
    const bool fits = value.is_number_unsigned() ? value.get<std::uint64_t>() <= std::uint64_t(most)
                                                 : value.is_number_integer() && value.get<std::int64_t>() <= most;
    if (!fits || value.get<std::int64_t>() < least)
        refuse(where + "." + name + " must be a whole number from " + std::to_string(least) + " to " +
               std::to_string(most) + (value.is_number() ? ", got " + value.dump() : ""));
    return value.get<std::int64_t>();
}

std::string word(const Json& object, const std::string& name, const std::string& where) {
    const Json& value = field(object, name, where);
    if (!value.is_string()) refuse(where + "." + name + " must be a string");
    return value.get<std::string>();
}

template <class Rule, std::size_t count>
Rule rule(const Json& object, const std::string& name, const RuleName<Rule> (&known)[count]) {
    const std::string given = word(object, name, "preprocessing");
    for (const auto& one : known)
        if (given == one.name) return one.rule;
    refuse("preprocessing." + name + " is unknown: '" + given.substr(0, 40) + "'");
}

std::vector<std::int32_t> joint_list(const Json& object, const std::string& name, std::int64_t joints, bool needed) {
    const Json& value = field(object, name, "preprocessing");
    if (!value.is_array() || static_cast<std::int64_t>(value.size()) > most_joints || (needed && value.empty()))
        refuse("preprocessing." + name + " must be a list of joints");
    std::vector<std::int32_t> list;
    for (const Json& joint : value) {
        if (!joint.is_number_unsigned() || joint.get<std::uint64_t>() >= std::uint64_t(joints))
            refuse("preprocessing." + name + " must name joints in [0, " + std::to_string(joints) + ")");
        list.push_back(joint.get<std::int32_t>());
    }
    return list;
}

Recipe recipe_of(const Json& told, std::int64_t joints, std::int64_t channels) {
    Recipe recipe;
    Preprocess& rules = recipe.rules;
    recipe.frames = whole(told, "frames", "preprocessing", 0, most_frames);
    recipe.bodies = whole(told, "bodies", "preprocessing", 0, most_bodies);
    recipe.dims = static_cast<int>(whole(told, "dims", "preprocessing", 2, std::min<std::int64_t>(3, channels)));
    rules.up_axis = static_cast<int>(whole(told, "up_axis", "preprocessing", 0, recipe.dims - 1));
    rules.length = rule(told, "length", length_rules);
    rules.centre = rule(told, "centre", centre_rules);
    rules.scale = rule(told, "scale", scale_rules);
    rules.rotate = rule(told, "rotate", rotate_rules);
    if (rules.centre == CentreRule::image || rules.scale == ScaleRule::image)
        refuse("preprocessing by the image's size is not served: it is no part of a clip");
    const bool turns = rules.rotate != RotateRule::none, scales = rules.scale == ScaleRule::torso;
    if (turns && recipe.dims != 3) refuse("preprocessing.rotate needs 3 coordinates");
    const bool from_joint = rules.centre == CentreRule::per_body || rules.centre == CentreRule::first;
    rules.centre_joints = joint_list(told, "centre_joints", joints, from_joint);
    rules.left_shoulder = joint_list(told, "left_shoulder", joints, turns);
    rules.right_shoulder = joint_list(told, "right_shoulder", joints, turns);
    rules.torso_top = joint_list(told, "torso_top", joints, scales);
    rules.torso_bottom = joint_list(told, "torso_bottom", joints, scales);
    return recipe;
}

// ---- the tensors ----

class Tensors {
public:
    Tensors(const Json& header, const std::uint8_t* data, std::size_t size) : data_(data) {
        for (const auto& [name, told] : header.items()) {
            if (name == "__metadata__") continue;
            const std::string where = "tensor '" + name.substr(0, 80) + "'";
            Entry entry;
            entry.type = type_of(word(told, "dtype", where), where);
            std::uint64_t count = 1;
            const Json& shape = field(told, "shape", where);
            if (!shape.is_array() || shape.size() > 4) refuse(where + " must have at most 4 axes");
            for (const Json& axis : shape) {
                if (!axis.is_number_unsigned() || axis.get<std::uint64_t>() > largest_file)
                    refuse(where + " has an impossible shape");
                entry.shape.push_back(static_cast<std::int64_t>(axis.get<std::uint64_t>()));
                if (__builtin_mul_overflow(count, axis.get<std::uint64_t>(), &count) || count > largest_file)
                    refuse(where + " has an impossible shape");
            }
            const Json& offsets = field(told, "data_offsets", where);
            if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
                !offsets[1].is_number_unsigned())
                refuse(where + " must have two offsets");
            const auto begin = offsets[0].get<std::uint64_t>(), end = offsets[1].get<std::uint64_t>();
            if (begin > end || end > size || end - begin != count * entry.type->bytes)
                refuse(where + " does not lie in the file as its shape and offsets say");
            entry.begin = static_cast<std::size_t>(begin), entry.count = static_cast<std::size_t>(count);
            entries_.emplace(name, std::move(entry));
        }
        // One after the other, without gaps: else a small file could stand for much memory.
        std::vector<std::pair<std::size_t, std::size_t>> stretches;
        for (const auto& [name, entry] : entries_) stretches.emplace_back(entry.begin, entry.count * entry.type->bytes);
        std::sort(stretches.begin(), stretches.end());
        std::size_t end = 0;
        for (const auto& [begin, bytes] : stretches) {
            if (begin != end) refuse("the tensors must lie one after the other");
            end += bytes;
        }
        if (end != size) refuse("the file must end with its last tensor");
    }

    template <class Number> std::vector<Number> take(const std::string& name, const std::vector<std::int64_t>& shape) {
        const Entry entry = take_entry(name, code_of(Number{}), shape);
        std::vector<Number> numbers(entry.count);
        if (!numbers.empty()) std::memcpy(numbers.data(), data_ + entry.begin, numbers.size() * sizeof(Number));
        if constexpr (std::is_floating_point_v<Number>)
            if (!std::all_of(numbers.begin(), numbers.end(), [](float number) { return std::isfinite(number); }))
                refuse("tensor '" + name + "' must be finite");
        return numbers;
    }

    void check_all_taken() const {
        if (!entries_.empty()) refuse("tensor '" + entries_.begin()->first.substr(0, 80) + "' belongs to no layer");
    }

private:
    struct Type {
        std::string_view code;
        std::size_t bytes;
    };
    static constexpr Type types[] = {{"F32", 4}, {"I32", 4}, {"I16", 2}, {"I8", 1}};
    static const char* code_of(float) { return "F32"; }
    static const char* code_of(std::int32_t) { return "I32"; }
    static const char* code_of(std::int16_t) { return "I16"; }
    static const char* code_of(std::int8_t) { return "I8"; }

    static const Type* type_of(const std::string& told, const std::string& where) {
        for (const Type& type : types)
            if (told == type.code) return &type;
        refuse(where + " must be float32, int32, int16 or int8");
    }

    struct Entry {
        const Type* type = nullptr;
        std::vector<std::int64_t> shape;
        std::size_t begin = 0, count = 0;
    };
    Entry take_entry(const std::string& name, const std::string& type, const std::vector<std::int64_t>& shape) {
        const auto found = entries_.find(name);
        if (found == entries_.end()) refuse("tensor '" + name + "' is missing");
        Entry entry = std::move(found->second);
        if (type != entry.type->code)
            refuse("tensor '" + name + "' must be of type " + type + ", got " + std::string(entry.type->code));
        if (entry.shape != shape) {
            std::string wanted, came;
            for (const std::int64_t axis : shape) wanted += (wanted.empty() ? "" : ", ") + std::to_string(axis);
            for (const std::int64_t axis : entry.shape) came += (came.empty() ? "" : ", ") + std::to_string(axis);
            refuse("tensor '" + name + "' must have shape (" + wanted + "), got (" + came + ")");
        }
        entries_.erase(found);
        return entry;
    }

    const std::uint8_t* data_;
    std::map<std::string, Entry> entries_;
};

// ---- what int8 may hold ----

constexpr std::int64_t most_code = cpu::int8_most, most_sum = std::numeric_limits<std::int32_t>::max();
constexpr double most_number = 1 << 30;  // before it is rounded and clamped

std::vector<float> positive(Tensors& tensors, const std::string& name, std::int64_t count) {
    std::vector<float> numbers = tensors.take<float>(name, {count});
    if (!std::all_of(numbers.begin(), numbers.end(), [](float number) { return number > 0; }))
        refuse("tensor '" + name + "' must be positive");
    return numbers;
}

// Weights (parts, columns, terms), biases (joints, columns), input codes up to `largest`, the bias in steps of `unit`:
// no sum leaves int32, nor does what it is scaled to with a residual's code beside it.
void check_sums(const Int8Numbers& int8, const std::string& name, std::int64_t parts, std::int64_t columns,
                std::int64_t largest, std::int64_t unit, const std::vector<float>& residual_step) {
    const auto terms = static_cast<std::int64_t>(int8.weight.size()) / parts / columns;
    for (std::int64_t n = 0; n < columns; ++n) {
        std::int64_t most = 0, bias = 0;
        for (std::int64_t k = 0; k < parts; ++k)
            for (std::int64_t i = 0; i < terms; ++i) {
                const int weight = int8.weight[static_cast<std::size_t>((k * columns + n) * terms + i)];
                if (weight < -most_code) refuse("tensor '" + name + ".weight' must be from -127 to 127");
                most += largest * std::abs(weight);
            }
        for (auto at = static_cast<std::size_t>(n); at < int8.bias.size(); at += static_cast<std::size_t>(columns))
            bias = std::max(bias, std::abs(std::int64_t{int8.bias[at]}));
        most += unit * bias;
        if (most > most_sum) refuse(name + " has sums beyond 32 bits");
        const auto column = static_cast<std::size_t>(n);
        const double beside = residual_step.empty() ? 0.0 : residual_step[column];
        if (static_cast<double>(most) * int8.scale[column] + most_code * beside > most_number)
            refuse(name + " has scales that take its sums beyond 2^30");
    }
}

void take_gather(GraphLayer& graph, Tensors& tensors, const std::string& name, std::int64_t joints, bool first) {
    Int8Gather& gather = graph.gather;
    const std::int64_t parts = graph.parts, largest = first ? cpu::int8_first_most : most_code;
    gather.zero = tensors.take<std::int16_t>(name + ".gather.zero", {parts});
    for (const std::int16_t zero : gather.zero)
        if (zero < 0 || zero > largest)
            refuse("tensor '" + name + ".gather.zero' must be from 0 to " + std::to_string(largest));
    if (first) {
        graph.adjacency = tensors.take<float>(name + ".adjacency", {parts, joints, joints});
        return;
    }
    gather.adjacency = tensors.take<std::int16_t>(name + ".adjacency", {parts, joints, joints});
    gather.scale = tensors.take<std::int16_t>(name + ".gather.scale", {parts, joints});
    for (std::int64_t k = 0; k < parts; ++k)
        for (std::int64_t target = 0; target < joints; ++target) {
            std::int64_t least = 0, most = 0;
            for (std::int64_t source = 0; source < joints; ++source) {
                const int entry = gather.adjacency[static_cast<std::size_t>((k * joints + source) * joints + target)];
                (entry < 0 ? least : most) += most_code * entry;
            }
            if (least < std::numeric_limits<std::int16_t>::min() || most > std::numeric_limits<std::int16_t>::max())
                refuse(name + ".gather has sums beyond 16 bits");
            if (gather.scale[static_cast<std::size_t>(k * joints + target)] < 1)
                refuse("tensor '" + name + ".gather.scale' must be positive");
        }
}

// ---- layers ----

ConvLayer conv_of(const Json& told, Tensors& tensors, const std::string& name, std::int64_t channels,
                  std::int64_t columns, const std::vector<float>* residual_step) {
    ConvLayer conv{};
    conv.channels = channels, conv.columns = columns;
    conv.taps = whole(told, "taps", name, 1, most_taps);
    conv.stride = whole(told, "stride", name, 1, most_stride);
    conv.left = whole(told, "left", name, 0, conv.taps - 1), conv.right = whole(told, "right", name, 0, conv.taps - 1);
    if (conv.left + conv.right != conv.taps - 1) refuse(name + " must have taps - 1 frames of padding");
    conv.groups = whole(told, "groups", name, 1, most_channels);
    if (channels % conv.groups || columns % conv.groups) refuse(name + ".groups must divide its channels");
    const std::vector<std::int64_t> shape = {columns, channels / conv.groups, conv.taps};
    if (!residual_step) {
        conv.weight = tensors.take<float>(name + ".weight", shape);
        conv.bias = tensors.take<float>(name + ".bias", {columns});
        return conv;
    }
    if (conv.groups != 1 && (conv.groups != channels || columns != channels))
        refuse(name + ".groups of int8 must be 1 or as many as its channels");
    conv.int8.weight = tensors.take<std::int8_t>(name + ".weight", shape);
    conv.int8.scale = positive(tensors, name + ".scale", columns);
    conv.int8.bias = tensors.take<std::int32_t>(name + ".bias", {columns});
    check_sums(conv.int8, name, 1, columns, most_code, 1, *residual_step);
    return conv;
}

GraphLayer graph_of(const Json& told, Tensors& tensors, const std::string& name, std::int64_t joints,
                    std::int64_t channels, bool int8, bool first) {
    GraphLayer graph{};
    graph.channels = channels;
    graph.columns = whole(told, "channels", name, 1, most_channels);
    graph.parts = whole(told, "parts", name, 1, most_parts);
    const std::vector<std::int64_t> shape = {graph.parts, graph.columns, channels};
    if (int8) {
        take_gather(graph, tensors, name, joints, first);
        graph.int8.weight = tensors.take<std::int8_t>(name + ".graph.weight", shape);
        graph.int8.scale = positive(tensors, name + ".graph.scale", graph.columns);
        graph.int8.bias = tensors.take<std::int32_t>(name + ".graph.bias", {joints, graph.columns});
        check_sums(graph.int8, name + ".graph", graph.parts, graph.columns, first ? cpu::int8_first_most : most_code,
                   first ? cpu::int8_first_unit : 1, {});
    } else {
        graph.adjacency = tensors.take<float>(name + ".adjacency", {graph.parts, joints, joints});
        graph.weight = tensors.take<float>(name + ".graph.weight", shape);
        graph.bias = tensors.take<float>(name + ".graph.bias", {joints, graph.columns});
    }
    return graph;
}

Block block_of(const Json& told, Tensors& tensors, const std::string& name, std::int64_t joints, std::int64_t channels,
               bool int8, bool first) {
    Block block;
    block.graph = graph_of(told, tensors, name, joints, channels, int8, first);
    const std::int64_t columns = block.graph.columns;
    const std::string residual = word(told, "residual", name);
    if (int8 && residual != "none") {
        if (first) refuse(name + ": the first block of int8 must have no residual");
        block.residual_step = positive(tensors, name + ".residual.step", columns);
    }
    const std::vector<float> nothing;
    const auto *plain = int8 ? &nothing : nullptr, *last = int8 ? &block.residual_step : nullptr;
    const bool separable = told.contains("pointwise");
    block.conv =
        conv_of(field(told, "conv", name), tensors, name + ".conv", columns, columns, separable ? plain : last);
    if (separable) block.pointwise = conv_of(told["pointwise"], tensors, name + ".pointwise", columns, columns, last);
    if (residual == "convolution") {
        block.residual = Residual::convolution;
        block.shortcut = conv_of(field(told, "shortcut", name), tensors, name + ".residual", channels, columns, plain);
    } else if (residual == "identity") {
        block.residual = Residual::identity;
        if (channels != columns) refuse(name + ".residual cannot be the identity: its channels change");
    } else if (residual != "none") {
        refuse(name + ".residual must be none, identity or convolution");
    }
    // All ways give as many frames, whatever the length: ceil(source / stride).
    if (block.pointwise && block.pointwise->stride != 1) refuse(name + ".pointwise must keep all frames");
    if (block.residual != Residual::none && (block.shortcut ? block.shortcut->stride : 1) != block.conv.stride)
        refuse(name + ": convolution and residual must give as many frames");
    for (const auto* one : {&block.pointwise, &block.shortcut})
        if (int8 && *one && ((*one)->taps != 1 || (*one)->groups != 1))
            refuse(name + ": pointwise and shortcut of int8 must have one tap and one group");
    return block;
}

double rate_of(const Json& told) {
    constexpr double least = 0.01, most = 1e6;
    if (!told.is_number() || !(told.get<double>() >= least && told.get<double>() <= most))
        refuse("model.rate must be a number of frames a second from 0.01 to 1000000" +
               (told.is_number() ? ", got " + told.dump() : std::string()));
    return told.get<double>();
}

Model model_of(const Json& told, Tensors& tensors) {
    Model model;
    if (whole(told, "format", "model", 1, std::numeric_limits<std::int32_t>::max()) != format)
        refuse("model.format must be " + std::to_string(format) + ": a newer release wrote this file");
    const std::string precision = word(told, "precision", "model");
    model.int8 = precision == "int8";
    if (!model.int8 && precision != "fp32") refuse("model.precision must be fp32 or int8");
    const Json& network = field(told, "network", "model");
    model.joints = whole(network, "joints", "network", 1, most_joints);
    model.channels = whole(network, "coordinates", "network", 1, most_channels);
    const std::string bodies = word(network, "bodies", "network");
    if (bodies != "mean" && bodies != "present") refuse("network.bodies must be mean or present");
    model.present_bodies = bodies == "present";
    model.input_scale = tensors.take<float>("input.scale", {model.joints, model.channels});
    model.input_shift = tensors.take<float>("input.shift", {model.joints, model.channels});
    const Json& blocks = field(network, "blocks", "network");
    if (!blocks.is_array() || blocks.empty() || static_cast<std::int64_t>(blocks.size()) > most_blocks)
        refuse("network.blocks must be a list of 1 to " + std::to_string(most_blocks));
    std::int64_t channels = model.channels;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
        model.blocks.push_back(
            block_of(blocks[i], tensors, "blocks." + std::to_string(i), model.joints, channels, model.int8, i == 0));
        channels = model.blocks.back().graph.columns;
    }
    if (model.int8) model.features_scale = positive(tensors, "features.scale", channels);
    const Json& classes = field(told, "classes", "model");
    if (!classes.is_array() || classes.empty() || static_cast<std::int64_t>(classes.size()) > most_classes)
        refuse("model.classes must be a list of names");
    for (const Json& one : classes) {
        if (!one.is_string()) refuse("model.classes must be a list of names");
        model.classes.push_back(one.get<std::string>());
    }
    const auto count = static_cast<std::int64_t>(model.classes.size());
    model.head_weight = tensors.take<float>("head.weight", {count, channels});
    model.head_bias = tensors.take<float>("head.bias", {count});
    tensors.check_all_taken();
    const Json& preprocessing = field(told, "preprocessing", "model");
    if (!preprocessing.is_null()) model.recipe = recipe_of(preprocessing, model.joints, model.channels);
    if (told.contains("rate")) model.rate = rate_of(told["rate"]);
    return model;
}

Model parse_model(const std::uint8_t* bytes, std::size_t size) {
    if (size < 8 || size > largest_file)
        refuse("a model file must have from 8 bytes to 1 GiB, got " + std::to_string(size) + " bytes");
    std::uint64_t length = 0;
    for (int i = 7; i >= 0; --i) length = length << 8 | bytes[i];
    if (length > size - 8 || length > longest_header)
        refuse("the model file's header should have " + std::to_string(length) + " bytes, but the file ends before");
    try {
        const auto* text = reinterpret_cast<const char*>(bytes) + 8;
        const Json header = Json::parse(text, text + length);
        const std::string description = word(field(header, "__metadata__", "the header"), key, "the metadata");
        Tensors tensors(header, bytes + 8 + length, size - 8 - static_cast<std::size_t>(length));
        Model model = model_of(Json::parse(description), tensors);
        model.description = description;
        return model;
    } catch (const Json::exception& error) {
        refuse(std::string("the model file's description is not valid: ") + error.what());
    }
}

}  // namespace

Model load_model(const std::string& path) {
    std::ifstream file(path, std::ios::binary | std::ios::ate);
    if (!file) throw Error(path + ": cannot be opened");
    const std::streamoff size = file.tellg();
    if (size < 0 || static_cast<std::uint64_t>(size) > largest_file)
        throw Error(path + ": is no model file of at most 1 GiB");
    std::vector<std::uint8_t> bytes(static_cast<std::size_t>(size));
    file.seekg(0);
    if (!file.read(reinterpret_cast<char*>(bytes.data()), size)) throw Error(path + ": cannot be read");
    try {
        return parse_model(bytes.data(), bytes.size());
    } catch (const Error& error) {
        throw Error(path + ": " + error.what());
    }
}

}  // namespace asma::edge
