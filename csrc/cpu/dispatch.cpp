#include "cpu/dispatch.hpp"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace asma::cpu {

#define ASMA_DECLARE_KERNEL(kernel, Params) void kernel(const Params<ASMA_DECLARED_REAL>&, std::int64_t, std::int64_t);
#define ASMA_DECLARED_REAL float
#define ASMA_DECLARE_ISA(isa) \
    namespace isa {           \
    ASMA_CPU_KERNELS(ASMA_DECLARE_KERNEL) \
    }
ASMA_DECLARE_ISA(generic)
#if defined(ASMA_HAS_AVX2)
ASMA_DECLARE_ISA(avx2)
#endif
#if defined(ASMA_HAS_AVX512)
ASMA_DECLARE_ISA(avx512)
#endif
#if defined(ASMA_HAS_NEON)
ASMA_DECLARE_ISA(neon)
#endif
#undef ASMA_DECLARED_REAL
#if !defined(ASMA_EDGE_ONLY)
#define ASMA_DECLARED_REAL double
ASMA_DECLARE_ISA(generic_f64)
#undef ASMA_DECLARED_REAL
#endif

namespace {

struct InstructionSet {
    const char* name;
    bool (*supported)();
    KernelTable<float> table;
    const KernelTable<float>* narrow = nullptr;  // for at most narrow_columns, where it differs
};

constexpr std::int64_t narrow_columns = 8;

#define ASMA_TAKE_KERNEL(kernel, Params) &ASMA_TAKEN_ISA::kernel,

#if defined(ASMA_HAS_AVX2)
#define ASMA_TAKEN_ISA avx2
const KernelTable<float> table_avx2 = {ASMA_CPU_KERNELS(ASMA_TAKE_KERNEL)};
#undef ASMA_TAKEN_ISA
#endif

const InstructionSet instruction_sets[] = {
#define ASMA_TAKEN_ISA generic
    {"generic", [] { return true; }, {ASMA_CPU_KERNELS(ASMA_TAKE_KERNEL)}},
#undef ASMA_TAKEN_ISA
#if defined(ASMA_HAS_AVX2)
    {"avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }, table_avx2},
#endif
#if defined(ASMA_HAS_AVX512)
#define ASMA_TAKEN_ISA avx512
    {"avx512",
     [] {
         return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("fma");
     },
     {ASMA_CPU_KERNELS(ASMA_TAKE_KERNEL)},
#if defined(ASMA_HAS_AVX2)
     &table_avx2
#endif
    },
#undef ASMA_TAKEN_ISA
#endif
#if defined(ASMA_HAS_NEON)
#define ASMA_TAKEN_ISA neon
    {"neon", [] { return true; }, {ASMA_CPU_KERNELS(ASMA_TAKE_KERNEL)}},
#undef ASMA_TAKEN_ISA
#endif
};

#if !defined(ASMA_EDGE_ONLY)
#define ASMA_TAKEN_ISA generic_f64
const KernelTable<double> table_f64 = {ASMA_CPU_KERNELS(ASMA_TAKE_KERNEL)};
#undef ASMA_TAKEN_ISA
#endif

const InstructionSet& find(const std::string& name) {
    for (const InstructionSet& isa : instruction_sets)
        if (name == isa.name) {
            if (isa.supported()) return isa;
            throw std::invalid_argument("instruction set '" + name + "' is not supported by this CPU");
        }
    std::string known;
    for (const std::string& isa : available_instruction_sets()) known += (known.empty() ? "" : ", ") + isa;
    throw std::invalid_argument("instruction set must be one of " + known + ", got '" + name + "'");
}

const InstructionSet& choose() {
    if (const char* wanted = std::getenv("ASMA_ISA"); wanted && *wanted) return find(wanted);
    const InstructionSet* best = &instruction_sets[0];
    for (const InstructionSet& isa : instruction_sets)
        if (isa.supported()) best = &isa;
    return *best;
}

std::atomic<const InstructionSet*> in_force{nullptr};

const InstructionSet& current() {
    const InstructionSet* isa = in_force.load(std::memory_order_acquire);
    if (!isa) {
        isa = &choose();
        in_force.store(isa, std::memory_order_release);
    }
    return *isa;
}

}  // namespace

template <> const KernelTable<float>& kernels<float>() { return current().table; }

template <> const KernelTable<float>& kernels<float>(std::int64_t columns) {
    const InstructionSet& isa = current();
    return columns <= narrow_columns && isa.narrow ? *isa.narrow : isa.table;
}

#if !defined(ASMA_EDGE_ONLY)
template <> const KernelTable<double>& kernels<double>() {
    return table_f64;
}
template <> const KernelTable<double>& kernels<double>(std::int64_t) {
    return table_f64;
}
#endif

const char* instruction_set() { return current().name; }

std::vector<std::string> available_instruction_sets() {
    std::vector<std::string> names;
    for (const InstructionSet& isa : instruction_sets)
        if (isa.supported()) names.emplace_back(isa.name);
    return names;
}

void set_instruction_set(const std::string& name) { in_force.store(&find(name), std::memory_order_release); }

}  // namespace asma::cpu
