#include "cpu/dispatch.hpp"

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#if defined(ASMA_HAS_NEON) && defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(ASMA_HAS_AVX2)
#include <cpuid.h>
#endif

namespace asma::cpu {

#define ASMA_DECLARE_KERNEL(kernel, Params) void kernel(const Params<ASMA_DECLARED_REAL>&, std::int64_t, std::int64_t);
#define ASMA_DECLARED_REAL float
#define ASMA_DECLARE_ISA(isa) \
    namespace isa {           \
    ASMA_CPU_KERNELS(ASMA_DECLARE_KERNEL) \
    }
#define ASMA_DECLARE_INT8(isa)                                                  \
    namespace isa {                                                             \
    void int8_input(const Int8InputParams&, std::int64_t, std::int64_t);        \
    void int8_block(const Int8BlockParams&, std::int64_t, std::int64_t);        \
    void int8_sum(const Int8SumParams&, std::int64_t, std::int64_t);            \
    }
ASMA_DECLARE_ISA(generic)
ASMA_DECLARE_INT8(generic)
#if defined(ASMA_HAS_AVX2)
ASMA_DECLARE_ISA(avx2)
ASMA_DECLARE_INT8(avx2)
ASMA_DECLARE_INT8(avxvnni)
#endif
#if defined(ASMA_HAS_AVX512)
ASMA_DECLARE_ISA(avx512)
ASMA_DECLARE_INT8(avx512)
ASMA_DECLARE_INT8(avx512vnni)
#endif
#if defined(ASMA_HAS_NEON)
ASMA_DECLARE_ISA(neon)
ASMA_DECLARE_INT8(neon)
ASMA_DECLARE_INT8(neon_dotprod)
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
    const KernelTable<float>* table;
    const KernelTable<float>* narrow;  // for at most narrow_columns
    Int8Kernels int8;
};

constexpr std::int64_t narrow_columns = 8;

#define ASMA_TAKE_KERNEL(kernel, Params) &ASMA_TAKEN_ISA::kernel,
#define ASMA_TAKE_INT8(isa) {&isa::int8_input, &isa::int8_block, &isa::int8_sum}

#define ASMA_TAKEN_ISA generic
const KernelTable<float> table_generic = {ASMA_CPU_KERNELS(ASMA_TAKE_KERNEL)};
#undef ASMA_TAKEN_ISA
#if defined(ASMA_HAS_AVX2)
#define ASMA_TAKEN_ISA avx2
const KernelTable<float> table_avx2 = {ASMA_CPU_KERNELS(ASMA_TAKE_KERNEL)};
#undef ASMA_TAKEN_ISA
// Of leaf 7.1; not every compiler's __builtin_cpu_supports knows it.
bool has_avxvnni() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif
#if defined(ASMA_HAS_AVX512)
#define ASMA_TAKEN_ISA avx512
const KernelTable<float> table_avx512 = {ASMA_CPU_KERNELS(ASMA_TAKE_KERNEL)};
#undef ASMA_TAKEN_ISA
bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("fma");
}
#endif
#if defined(ASMA_HAS_NEON)
#define ASMA_TAKEN_ISA neon
const KernelTable<float> table_neon = {ASMA_CPU_KERNELS(ASMA_TAKE_KERNEL)};
#undef ASMA_TAKEN_ISA
bool has_dotprod() {
#if defined(__linux__)
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#elif defined(__APPLE__)
    return true;
#else
    return false;
#endif
}
#endif

const InstructionSet instruction_sets[] = {
    {"generic", [] { return true; }, &table_generic, &table_generic, ASMA_TAKE_INT8(generic)},
#if defined(ASMA_HAS_AVX2)
    {"avx2", &has_avx2, &table_avx2, &table_avx2, ASMA_TAKE_INT8(avx2)},
    {"avxvnni", [] { return has_avx2() && has_avxvnni(); }, &table_avx2, &table_avx2, ASMA_TAKE_INT8(avxvnni)},
#endif
#if defined(ASMA_HAS_AVX512)
    {"avx512", &has_avx512, &table_avx512, &table_avx2, ASMA_TAKE_INT8(avx512)},
    {"avx512vnni", [] { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }, &table_avx512, &table_avx2,
     ASMA_TAKE_INT8(avx512vnni)},
#endif
#if defined(ASMA_HAS_NEON)
    {"neon", [] { return true; }, &table_neon, &table_neon, ASMA_TAKE_INT8(neon)},
    {"neon_dotprod", &has_dotprod, &table_neon, &table_neon, ASMA_TAKE_INT8(neon_dotprod)},
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

template <> const KernelTable<float>& kernels<float>() { return *current().table; }

template <> const KernelTable<float>& kernels<float>(std::int64_t columns) {
    return *(columns <= narrow_columns ? current().narrow : current().table);
}

const Int8Kernels& int8_kernels() { return current().int8; }

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
