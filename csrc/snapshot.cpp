// Snapshots of a tree. All numbers are little-endian, as they lie in memory:
//
//     Header | Hot[n] | values f64[n] | parents u32[n] | priors f32[n], if there are any | tries u8[n] | flags u8[n]
//
// The checksum covers everything, with its own field as zero. Nothing read is trusted: sizes are compared before memory
// is taken, every field is checked, and links between nodes are made anew from the parents.
#include "snapshot.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <system_error>

#include "rng.h"
#include "tree.h"

namespace bavt {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "snapshots are the memory of a little-endian machine");

constexpr char kMagic[8] = {'B', 'A', 'V', 'T', 'T', 'R', 'E', 'E'};
constexpr uint32_t kVersion = 1;

struct Header {
    char magic[8];
    uint32_t version;
    uint32_t num_nodes;
    uint32_t max_nodes;
    uint32_t has_priors;
    uint64_t seed;
    uint64_t drawn;
    double decay;
    uint64_t checksum;
};
static_assert(sizeof(Header) == 56);

size_t body_size(const Header& header) {
    return size_t{header.num_nodes} * (sizeof(Hot) + sizeof(double) + sizeof(NodeId) + 2 + (header.has_priors ? 4 : 0));
}

uint64_t word_at(const char* data) {
    uint64_t word;
    std::memcpy(&word, data, sizeof word);
    return word;
}

uint64_t stir(uint64_t lane, uint64_t word) {
    lane += word * 0x9E3779B97F4A7C15ull;
    return ((lane << 31) | (lane >> 33)) * 0xD1B54A32D192ED03ull;
}

// Four independent lanes, so that the multiplications overlap.
uint64_t checksum_of(Bytes bytes) {
    const auto [data, size] = bytes;
    uint64_t lanes[4] = {1, 2, 3, 4};
    size_t i = 0;
    for (; i + 32 <= size; i += 32) {
        for (int lane = 0; lane < 4; ++lane) lanes[lane] = stir(lanes[lane], word_at(data + i + 8 * lane));
    }
    for (; i < size; ++i) lanes[0] = stir(lanes[0], static_cast<unsigned char>(data[i]));
    uint64_t sum = size;
    for (const uint64_t lane : lanes) sum = mix64(sum ^ lane);
    return sum;
}

[[noreturn]] void throw_errno(const std::string& what) {
    throw std::system_error(errno, std::generic_category(), what);
}

struct File {
    int descriptor;
    ~File() {
        if (descriptor >= 0) close(descriptor);
    }
};

void write_all(int descriptor, Bytes bytes, const std::string& path) {
    auto [data, left] = bytes;
    while (left > 0) {
        const ssize_t written = write(descriptor, data, left);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) throw_errno(path);
        data += written;
        left -= static_cast<size_t>(written);
    }
}

void require(bool holds, const char* what) {
    if (!holds) throw SnapshotError(std::string("snapshot: ") + what + "; save the tree again");
}

Header checked_header(const char* data, size_t size) {
    Header header;
    require(size >= sizeof header, "shorter than its header");
    std::memcpy(&header, data, sizeof header);
    require(std::memcmp(header.magic, kMagic, sizeof kMagic) == 0, "not a snapshot of a bavt_fast tree");
    require(header.version == kVersion, "of a version that this package does not read");
    require(header.max_nodes >= 1 && header.max_nodes <= kMaxNodes, "max_nodes is out of range");
    require(header.num_nodes >= 1 && header.num_nodes <= header.max_nodes, "num_nodes is out of range");
    require(header.has_priors <= 1, "a flag is out of range");
    require(header.decay > 0.0 && header.decay <= 1.0, "decay is out of range");
    require(size - sizeof header == body_size(header), "truncated or with bytes left over");
    return header;
}

}  // namespace

uint64_t checksum(const std::vector<Bytes>& sections) {
    uint64_t sum = 0;
    for (const Bytes& section : sections) sum = mix64(sum ^ checksum_of(section));
    return sum;
}

void write_atomically(const std::string& path, const std::vector<Bytes>& sections) {
    std::string temporary = path + ".XXXXXX";
    const File file{mkstemp(temporary.data())};
    if (file.descriptor < 0) throw_errno(path);
    try {
        const mode_t mask = umask(0);
        umask(mask);
        for (const Bytes& section : sections) write_all(file.descriptor, section, path);
        if (fchmod(file.descriptor, 0666 & ~mask) != 0 || fsync(file.descriptor) != 0) throw_errno(path);
        if (rename(temporary.c_str(), path.c_str()) != 0) throw_errno(path);
    } catch (...) {
        unlink(temporary.c_str());
        throw;
    }
}

std::string read_whole(const std::string& path, size_t limit) {
    const File file{open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    struct stat info;
    if (file.descriptor < 0 || fstat(file.descriptor, &info) != 0) throw_errno(path);
    if (S_ISDIR(info.st_mode)) {
        errno = EISDIR;
        throw_errno(path);
    }
    require(static_cast<size_t>(info.st_size) <= limit, "larger than any tree");
    std::string bytes(static_cast<size_t>(info.st_size), '\0');
    size_t filled = 0;
    while (filled < bytes.size()) {
        const ssize_t got = read(file.descriptor, bytes.data() + filled, bytes.size() - filled);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) throw_errno(path);
        if (got == 0) break;
        filled += static_cast<size_t>(got);
    }
    bytes.resize(filled);
    return bytes;
}

struct Tree::Sections {
    Header header;
    std::vector<Bytes> bytes;  // the first of them is the header above
};

Tree::Sections Tree::sections() const {
    Sections all{{}, {}};
    Header& header = all.header;
    std::memcpy(header.magic, kMagic, sizeof kMagic);
    header.version = kVersion;
    header.num_nodes = num_nodes_;
    header.max_nodes = max_nodes_;
    header.has_priors = has_priors_;
    header.seed = rng_.seed();
    header.drawn = rng_.drawn();
    header.decay = decay_;
    const auto add = [&](const auto& column) {
        all.bytes.emplace_back(column.at(0), static_cast<size_t>(column.at(num_nodes_) - column.at(0)));
    };
    all.bytes.emplace_back(reinterpret_cast<const char*>(&header), sizeof header);
    add(hot_), add(values_), add(parents_);
    if (has_priors_) add(priors_);
    add(tries_), add(flags_);
    const uint64_t sum = checksum(all.bytes);
    header.checksum = sum;
    all.bytes.erase(all.bytes.begin());
    return all;
}

void Tree::save(const std::string& path) const {
    const Sections all = sections();
    std::vector<Bytes> bytes{{reinterpret_cast<const char*>(&all.header), sizeof all.header}};
    bytes.insert(bytes.end(), all.bytes.begin(), all.bytes.end());
    write_atomically(path, bytes);
}

std::string Tree::to_bytes() const {
    const Sections all = sections();
    std::string bytes(reinterpret_cast<const char*>(&all.header), sizeof all.header);
    bytes.reserve(sizeof all.header + body_size(all.header));
    for (const auto& [data, size] : all.bytes) bytes.append(data, size);
    return bytes;
}

std::unique_ptr<Tree> Tree::load(const std::string& path) {
    const std::string bytes = read_whole(path, sizeof(Header) + size_t{kMaxNodes} * (kMaxBytesPerNode));
    return from_bytes(bytes.data(), bytes.size());
}

std::unique_ptr<Tree> Tree::from_bytes(const char* data, size_t size) {
    Header header = checked_header(data, size);
    TreeOptions options;
    options.max_nodes = header.max_nodes;
    options.decay = header.decay;
    auto tree = std::make_unique<Tree>(options);
    tree->rng_ = CounterRng(header.seed, header.drawn);
    tree->make_room(header.num_nodes);
    tree->num_nodes_ = header.num_nodes;
    tree->has_priors_ = header.has_priors != 0;

    std::vector<Bytes> parts{{reinterpret_cast<const char*>(&header), sizeof header}};
    const char* at = data + sizeof header;
    const auto read = [&](const auto& column) {
        const auto length = static_cast<size_t>(column.at(header.num_nodes) - column.at(0));
        std::memcpy(column.at(0), at, length);
        parts.emplace_back(at, length);
        at += length;
    };
    read(tree->hot_), read(tree->values_), read(tree->parents_);
    if (tree->has_priors_) read(tree->priors_);
    read(tree->tries_), read(tree->flags_);
    const uint64_t expected = header.checksum;
    header.checksum = 0;
    require(checksum(parts) == expected, "damaged: its checksum does not match");
    tree->require_consistency();
    tree->rebuild_links();
    return tree;
}

// A file with the right checksum may still have been made by hand.
void Tree::require_consistency() const {
    require(parents_[kRoot] == kNone, "the root has a parent");
    for (NodeId node = 0; node < num_nodes_; ++node) {
        require(std::isfinite(values_[node]), "a value is not finite");
        require(!std::isnan(hot_[node].value_sum), "a value sum is NaN");
        require((flags_[node] & ~kAllFlags) == 0, "a flag is unknown");
        if (has_priors_) require(std::isfinite(priors_[node]) && !(priors_[node] < 0.0f), "a prior is out of range");
        if (node == kRoot) continue;
        require(parents_[node] < node, "a node comes before its parent");
        const uint8_t above = flags_[parents_[node]];
        require((above & kTerminal) == 0, "a terminal node has children");
        require((above & kPruned) == 0 || (flags_[node] & kPruned) != 0, "a pruned node has live children");
    }
}

}  // namespace bavt
