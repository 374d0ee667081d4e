// Snapshots of a forest. All numbers are little-endian, as they lie in memory:
//
//     ForestHeader | (state u64, size u64) per slot | the trees' snapshots, one after the other (snapshot.cpp)
#include <cmath>
#include <cstring>
#include <limits>

#include "forest.h"
#include "snapshot.h"

namespace bavt {
namespace {

constexpr char kForestMagic[8] = {'B', 'A', 'V', 'T', 'F', 'R', 'S', 'T'};
constexpr uint32_t kForestVersion = 1;

struct ForestHeader {
    char magic[8];
    uint32_t version;
    uint32_t num_slots;
    uint32_t max_nodes;
    uint32_t padding;
    uint64_t seed;
    uint64_t trees_made;
    uint64_t turn;
    double decay;
    double root_value;
    uint64_t checksum;  // of the header, with 0 here, and the directory; the trees have their own
};
static_assert(sizeof(ForestHeader) == 72);

struct Entry {
    uint64_t state;
    uint64_t size;
};

uint64_t checksum_of(const ForestHeader& header, const std::vector<Entry>& directory) {
    ForestHeader blank = header;
    blank.checksum = 0;
    return checksum({{reinterpret_cast<const char*>(&blank), sizeof blank},
                     {reinterpret_cast<const char*>(directory.data()), directory.size() * sizeof(Entry)}});
}

void require(bool holds, const char* what) {
    if (!holds) throw SnapshotError(std::string("snapshot: ") + what + "; save the forest again");
}

}  // namespace

void Forest::save(const std::string& path) {
    const std::lock_guard<std::mutex> lock(mutex_);
    ForestHeader header{};
    std::memcpy(header.magic, kForestMagic, sizeof kForestMagic);
    header.version = kForestVersion;
    header.num_slots = static_cast<uint32_t>(slots_.size());
    header.max_nodes = options_.max_nodes;
    header.seed = options_.seed;
    header.trees_made = trees_made_;
    header.turn = turn_;
    header.decay = options_.decay;
    header.root_value = options_.root_value;
    std::vector<std::string> trees;
    std::vector<Entry> directory;
    for (const Slot& slot : slots_) {
        trees.push_back(slot.state == State::kDropped ? std::string() : slot.tree->to_bytes());
        directory.push_back({static_cast<uint64_t>(slot.state), trees.back().size()});
    }
    header.checksum = checksum_of(header, directory);
    std::vector<Bytes> sections{{reinterpret_cast<const char*>(&header), sizeof header},
                                {reinterpret_cast<const char*>(directory.data()), directory.size() * sizeof(Entry)}};
    for (const std::string& tree : trees) sections.emplace_back(tree.data(), tree.size());
    write_atomically(path, sections);
}

std::unique_ptr<Forest> Forest::load(const std::string& path, unsigned threads) {
    const std::string bytes = read_whole(path, std::numeric_limits<int64_t>::max());
    ForestHeader header;
    require(bytes.size() >= sizeof header, "shorter than its header");
    std::memcpy(&header, bytes.data(), sizeof header);
    require(std::memcmp(header.magic, kForestMagic, sizeof kForestMagic) == 0, "not a snapshot of a bavt_fast forest");
    require(header.version == kForestVersion, "of a version that this package does not read");
    require((bytes.size() - sizeof header) / sizeof(Entry) >= header.num_slots, "truncated");
    std::vector<Entry> directory(header.num_slots);
    std::memcpy(directory.data(), bytes.data() + sizeof header, directory.size() * sizeof(Entry));
    require(checksum_of(header, directory) == header.checksum, "damaged: its checksum does not match");
    require(header.max_nodes >= 1 && header.max_nodes <= kMaxNodes, "max_nodes is out of range");
    require(header.decay > 0.0 && header.decay <= 1.0, "decay is out of range");
    require(std::isfinite(header.root_value), "root_value is not finite");

    std::unique_ptr<Forest> forest(new Forest(threads));
    forest->options_ = {header.seed,
                        header.max_nodes,
                        header.root_value,
                        header.decay,
                        true,
                        std::make_shared<const DecayPowers>(header.decay)};
    forest->turn_ = header.num_slots == 0 ? 0 : header.turn % header.num_slots;
    size_t at = sizeof header + directory.size() * sizeof(Entry);
    for (const Entry& entry : directory) {
        require(entry.state <= static_cast<uint64_t>(State::kDropped), "a state is unknown");
        require(entry.size <= bytes.size() - at, "truncated");
        forest->add_slot(header.root_value);
        Slot& slot = forest->slots_.back();
        slot.state = static_cast<State>(entry.state);
        if (slot.state != State::kDropped) slot.tree = Tree::from_bytes(bytes.data() + at, entry.size);
        at += entry.size;
    }
    require(at == bytes.size(), "with bytes left over");
    forest->trees_made_ = header.trees_made;
    return forest;
}

}  // namespace bavt
