// Snapshots of a tree. All numbers are little-endian, as they lie in memory:
//
//     Header | Hot[n] | values f64[n] | parents u32[n] | priors f32[n], if there are any | weights f64[n], if they were
//     given apart from the values | tries u8[n] | flags u8[n] | checksum u64 of all before it (checksum.h)
//
// Nothing read is trusted: sizes are compared before memory is taken, every field is checked, and links between nodes
// are made anew from the parents. Checks run over what was just read, while it is in the cache.
#include "tree/snapshot.h"

#include <algorithm>
#include <cstring>

#include "tree/tree.h"

namespace bavt {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "snapshots are the memory of a little-endian machine");

constexpr char kMagic[8] = {'B', 'A', 'V', 'T', 'T', 'R', 'E', 'E'};
constexpr uint32_t kVersion = 3;
constexpr size_t kPieceBytes = size_t{128} << 10;  // read and checked at a time
constexpr uint64_t kSignBit = uint64_t{1} << 63;
constexpr uint64_t kInfinity = 0x7FF0000000000000ull;  // above it, without the sign, are the NaNs

struct Header {
    char magic[8];
    uint32_t version;
    uint32_t num_nodes;
    uint32_t max_nodes;
    uint16_t has_priors, has_weights;
    uint64_t seed;
    uint64_t drawn;
    double decay;
};
static_assert(sizeof(Header) == 48);

size_t size_of(const Header& header) {
    const size_t per_node = sizeof(Hot) + sizeof(double) + sizeof(NodeId) + 2 +
                            (header.has_priors ? sizeof(float) : 0) + (header.has_weights ? sizeof(double) : 0);
    return sizeof header + header.num_nodes * per_node + sizeof(uint64_t);
}

void check_header(const Header& header, uint64_t size) {
    require_snapshot(std::memcmp(header.magic, kMagic, sizeof kMagic) == 0, "not a snapshot of a bavt_fast tree");
    require_version(header.version, kVersion);
    require_snapshot(header.max_nodes >= 1 && header.max_nodes <= kMaxNodes, "max_nodes is out of range");
    require_snapshot(header.num_nodes >= 1 && header.num_nodes <= header.max_nodes, "num_nodes is out of range");
    require_snapshot(header.has_priors <= 1 && header.has_weights <= 1, "a flag is out of range");
    require_snapshot(header.decay > 0.0 && header.decay <= 1.0, "decay is out of range");
    require_snapshot(size == size_of(header), "truncated or with bytes left over");
}

uint64_t bits_of(double number) {
    uint64_t bits;
    std::memcpy(&bits, &number, sizeof bits);
    return bits;
}

// The loops below gather what is wrong in one bit instead of branching, so that the compiler makes vectors of them.

bool all_finite(const double* numbers, size_t count) {
    uint64_t carries = 0;  // into the sign bit, from an exponent of all ones
    for (size_t i = 0; i < count; ++i) carries |= (bits_of(numbers[i]) & kInfinity) + (kSignBit - kInfinity);
    return (carries & kSignBit) == 0;
}

// Sums may overflow to infinity.
bool no_sum_is_nan(const Hot* hot, size_t count) {
    uint64_t carries = 0;
    for (size_t i = 0; i < count; ++i) carries |= (bits_of(hot[i].value_sum) & ~kSignBit) + (kSignBit - 1 - kInfinity);
    return (carries & kSignBit) == 0;
}

// Finite and not negative; -0 stands for a prior of zero (tree.cpp).
bool are_priors(const float* priors, size_t count) {
    bool wrong = false;
    for (size_t i = 0; i < count; ++i) {
        uint32_t bits;
        std::memcpy(&bits, &priors[i], sizeof bits);
        wrong |= (bits >= 0x7F800000u) & (bits != 0x80000000u);
    }
    return !wrong;
}

bool are_flags(const uint8_t* flags, size_t count) {
    uint8_t all = 0;
    for (size_t i = 0; i < count; ++i) all |= flags[i];
    return (all & ~kAllFlags) == 0;
}

// Reads a column of `count` in pieces, and calls check(first, length) on each.
template <typename T, typename Check>
void read_column(Source& source, Checksum& sum, T* column, size_t count, Check check) {
    for (size_t at = 0; at < count;) {
        const size_t length = std::min(count - at, kPieceBytes / sizeof(T));
        source.get(reinterpret_cast<char*>(column + at), length * sizeof(T), sum);
        check(column + at, length);
        at += length;
    }
}

}  // namespace

size_t Tree::snapshot_size() const {
    Header header{};
    header.num_nodes = num_nodes_;
    header.has_priors = has_priors_;
    header.has_weights = has_weights();
    return size_of(header);
}

void Tree::write(Sink& sink) const {
    Header header{};
    std::memcpy(header.magic, kMagic, sizeof kMagic);
    header.version = kVersion;
    header.num_nodes = num_nodes_;
    header.max_nodes = max_nodes_;
    header.has_priors = has_priors_;
    header.has_weights = has_weights();
    header.seed = rng_.seed();
    header.drawn = rng_.drawn();
    header.decay = decay_;
    Checksum sum;
    sink.put(reinterpret_cast<const char*>(&header), sizeof header, sum);
    const auto put = [&](const auto& column) {
        sink.put(column.at(0), static_cast<size_t>(column.at(num_nodes_) - column.at(0)), sum);
    };
    put(hot_), put(values_), put(parents_);
    if (has_priors_) put(priors_);
    if (has_weights()) {
        sink.put(reinterpret_cast<const char*>(weights_.data()), weights_.size() * sizeof(double), sum);
    }
    put(tries_), put(flags_);
    const uint64_t value = sum.value();
    sink.put(reinterpret_cast<const char*>(&value), sizeof value, sum);
}

std::unique_ptr<Tree> Tree::read(Source& source, uint64_t size, const TreeOptions* forest) {
    Header header;
    require_snapshot(size >= sizeof header + sizeof(uint64_t), "shorter than its header");
    Checksum sum;
    source.get(reinterpret_cast<char*>(&header), sizeof header, sum);
    check_header(header, size);
    TreeOptions options;
    if (forest != nullptr) {
        require_snapshot(header.max_nodes == forest->max_nodes, "a tree does not have the max_nodes of its forest");
        require_snapshot(header.decay == forest->decay, "a tree does not have the decay of its forest");
        options = *forest;
    }
    options.max_nodes = header.max_nodes;
    options.decay = header.decay;
    auto tree = std::make_unique<Tree>(options);
    tree->rng_ = CounterRng(header.seed, header.drawn);
    tree->make_room(header.num_nodes);
    tree->num_nodes_ = header.num_nodes;
    tree->has_priors_ = header.has_priors != 0;
    if (header.has_weights != 0) tree->weights_.resize(header.num_nodes);
    tree->read_columns(source, sum);
    const uint64_t expected = sum.value();
    uint64_t found;
    source.get(reinterpret_cast<char*>(&found), sizeof found, sum);
    require_snapshot(found == expected, "damaged: its checksum does not match");
    require_snapshot(tree->parents_[kRoot] == kNone, "the root has a parent");
    if (const char* wrong = tree->rebuild_links()) require_snapshot(false, wrong);
    return tree;
}

// A file with the right checksum may still have been made by hand.
void Tree::read_columns(Source& source, Checksum& sum) {
    read_column(source, sum, hot_.data, num_nodes_, [](Hot* hot, size_t count) {
        require_snapshot(no_sum_is_nan(hot, count), "damaged: a value sum is NaN");
        for (size_t i = 0; i < count; ++i) hot[i].children = 0;
    });
    read_column(source, sum, values_.data, num_nodes_, [](const double* values, size_t count) {
        require_snapshot(all_finite(values, count), "damaged: a value is not finite");
    });
    read_column(source, sum, parents_.data, num_nodes_, [](const NodeId*, size_t) {});
    if (has_priors_) {
        read_column(source, sum, priors_.data, num_nodes_, [](const float* priors, size_t count) {
            require_snapshot(are_priors(priors, count), "damaged: a prior is out of range");
        });
    }
    if (has_weights()) {
        read_column(source, sum, weights_.data(), num_nodes_, [](const double* weights, size_t count) {
            require_snapshot(all_finite(weights, count), "damaged: a weight is not finite");
        });
    }
    read_column(source, sum, tries_.data, num_nodes_, [](const uint8_t*, size_t) {});
    read_column(source, sum, flags_.data, num_nodes_, [](const uint8_t* flags, size_t count) {
        require_snapshot(are_flags(flags, count), "damaged: a flag is unknown");
    });
}

void Tree::to_memory(char* out) const {
    MemorySink sink(out);
    write(sink);
}

std::string Tree::to_bytes() const {
    std::string bytes(snapshot_size(), '\0');
    to_memory(bytes.data());
    return bytes;
}

void Tree::save(const std::string& path) const {
    AtomicFile file(path);
    const std::unique_ptr<Sink> sink = file.sink(0);
    write(*sink);
    sink->finish();
    file.commit();
}

std::unique_ptr<Tree> Tree::from_bytes(const char* data, size_t size) {
    MemorySource source(data);
    return within_memory([&] { return read(source, size); });
}

std::unique_ptr<Tree> Tree::load(const std::string& path) {
    const InputFile file(path);
    const std::unique_ptr<Source> source = file.source(0);
    return within_memory([&] { return read(*source, file.size()); });
}

}  // namespace bavt
