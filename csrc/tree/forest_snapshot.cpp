// Snapshots of a forest. All numbers are little-endian, as they lie in memory:
//
//     Header | (state u64, size u64) per slot | checksum u64 of all before it |
//     the trees' snapshots, one after the other (snapshot.cpp); none where a tree was dropped
//
// Where each tree lies follows from the directory, so the workers write and read their own trees at the same time.
#include <cmath>
#include <cstring>

#include "tree/forest.h"
#include "tree/snapshot.h"

namespace bavt {
namespace {

constexpr char kMagic[8] = {'B', 'A', 'V', 'T', 'F', 'R', 'S', 'T'};
constexpr uint32_t kVersion = 2;
constexpr uint64_t kParallelFrom = uint64_t{1} << 20;  // bytes from which on waking the helpers pays

struct Header {
    char magic[8];
    uint32_t version;
    uint32_t num_slots;
    uint32_t max_nodes;
    uint32_t reserved;
    uint64_t seed;
    uint64_t trees_made;
    uint64_t turn;
    double decay;
    double root_value;
};
static_assert(sizeof(Header) == 64);

struct Entry {
    uint64_t state;
    uint64_t size;
};

size_t front_size(size_t slots) { return sizeof(Header) + slots * sizeof(Entry) + sizeof(uint64_t); }

void check_header(const Header& header, uint64_t size) {
    require_snapshot(std::memcmp(header.magic, kMagic, sizeof kMagic) == 0, "not a snapshot of a bavt_fast forest");
    require_version(header.version, kVersion);
    require_snapshot(header.num_slots <= Forest::kMaxTrees, "num_slots is out of range");
    require_snapshot(size >= front_size(header.num_slots), "truncated");
    require_snapshot(header.max_nodes >= 1 && header.max_nodes <= kMaxNodes, "max_nodes is out of range");
    require_snapshot(header.decay > 0.0 && header.decay <= 1.0, "decay is out of range");
    require_snapshot(std::isfinite(header.root_value), "root_value is not finite");
    require_snapshot(header.reserved == 0, "a field that is not in use is not zero");
    require_snapshot(header.turn == 0 || header.turn < header.num_slots, "turn is out of range");
}

}  // namespace

// What is written before the trees, and where they follow: that of slot i from offsets[i] to offsets[i + 1].
struct Forest::Front {
    Header header{};
    std::vector<Entry> directory;
    std::vector<uint64_t> offsets;

    void place_trees() {
        offsets.assign(1, front_size(directory.size()));
        for (const Entry& entry : directory) offsets.push_back(offsets.back() + entry.size);
    }

    void write(Sink& sink) const {
        Checksum sum;
        sink.put(reinterpret_cast<const char*>(&header), sizeof header, sum);
        sink.put(reinterpret_cast<const char*>(directory.data()), directory.size() * sizeof(Entry), sum);
        const uint64_t value = sum.value();
        sink.put(reinterpret_cast<const char*>(&value), sizeof value, sum);
        sink.finish();
    }

    void read(Source& source, uint64_t size) {
        Checksum sum;
        require_snapshot(size >= sizeof header, "shorter than its header");
        source.get(reinterpret_cast<char*>(&header), sizeof header, sum);
        check_header(header, size);
        directory.resize(header.num_slots);
        source.get(reinterpret_cast<char*>(directory.data()), directory.size() * sizeof(Entry), sum);
        const uint64_t expected = sum.value();
        uint64_t found, left = size - front_size(header.num_slots);
        source.get(reinterpret_cast<char*>(&found), sizeof found, sum);
        require_snapshot(found == expected, "damaged: its checksum does not match");
        for (const Entry& entry : directory) {
            const bool dropped = entry.state == static_cast<uint64_t>(State::kDropped);
            require_snapshot(entry.state <= static_cast<uint64_t>(State::kDropped), "a state is unknown");
            require_snapshot(entry.size <= left, "truncated");
            require_snapshot(!dropped || entry.size == 0, "a dropped tree is still there");
            left -= entry.size;
        }
        require_snapshot(left == 0, "with bytes left over");
        place_trees();
    }
};

Forest::Front Forest::front() const {
    Front front;
    Header& header = front.header;
    std::memcpy(header.magic, kMagic, sizeof kMagic);
    header.version = kVersion;
    header.num_slots = static_cast<uint32_t>(slots_.size());
    header.max_nodes = options_.max_nodes;
    header.seed = options_.seed;
    header.trees_made = trees_made_;
    header.turn = turn_;
    header.decay = options_.decay;
    header.root_value = options_.root_value;
    for (const Slot& slot : slots_) {
        const size_t size = slot.state == State::kDropped ? 0 : slot.tree->snapshot_size();
        front.directory.push_back({static_cast<uint64_t>(slot.state), size});
    }
    front.place_trees();
    return front;
}

// Trees that a worker writes or reads at a time: few enough that the shares come out even, each has a buffer to make.
size_t Forest::piece() const { return slots_.size() / (8 * workers_.count()) + 1; }

// `sink_at` makes a sink for what begins at an offset.
template <typename SinkAt>
void Forest::write(const Front& front, SinkAt sink_at) {
    front.write(*sink_at(0));
    workers_.run(slots_.size(), piece(), front.offsets.back() >= kParallelFrom, [&](size_t begin, size_t end) {
        const std::unique_ptr<Sink> sink = sink_at(front.offsets[begin]);
        for (size_t tree = begin; tree < end; ++tree) {
            if (slots_[tree].state != State::kDropped) slots_[tree].tree->write(*sink);
        }
        sink->finish();
    });
}

template <typename SourceAt>
std::unique_ptr<Forest> Forest::read(uint64_t size, unsigned threads, SourceAt source_at) {
    Front front;
    front.read(*source_at(0), size);
    const Header& header = front.header;
    std::unique_ptr<Forest> forest(new Forest(threads));
    forest->options_ = {header.seed,
                        header.max_nodes,
                        header.root_value,
                        header.decay,
                        true,
                        std::make_shared<const DecayPowers>(header.decay)};
    forest->turn_ = header.turn;
    forest->trees_made_ = header.trees_made;
    for (const Entry& entry : front.directory) {
        forest->slots_.push_back({nullptr, static_cast<State>(entry.state)});
    }
    forest->workers_.run(forest->slots_.size(), forest->piece(), size >= kParallelFrom, [&](size_t begin, size_t end) {
        const std::unique_ptr<Source> source = source_at(front.offsets[begin]);
        for (size_t id = begin; id < end; ++id) {
            Slot& slot = forest->slots_[id];
            if (slot.state != State::kDropped)
                slot.tree = Tree::read(*source, front.directory[id].size, &forest->options_);
        }
    });
    return forest;
}

void Forest::save(const std::string& path) {
    const std::lock_guard lock(mutex_);
    AtomicFile file(path);
    write(front(), [&](uint64_t offset) { return file.sink(offset); });
    file.commit();
}

size_t Forest::to_memory(char* out, size_t room) {
    const std::lock_guard lock(mutex_);
    const Front front = this->front();
    if (front.offsets.back() <= room) {
        write(front, [&](uint64_t offset) { return std::make_unique<MemorySink>(out + offset); });
    }
    return front.offsets.back();
}

std::string Forest::to_bytes() {
    std::string bytes;
    for (size_t size; (size = to_memory(bytes.data(), bytes.size())) != bytes.size();) bytes.resize(size);
    return bytes;
}

std::unique_ptr<Forest> Forest::from_bytes(const char* data, size_t size, unsigned threads) {
    return within_memory([&] {
        return read(size, threads, [&](uint64_t offset) { return std::make_unique<MemorySource>(data + offset); });
    });
}

std::unique_ptr<Forest> Forest::load(const std::string& path, unsigned threads) {
    const InputFile file(path);
    return within_memory(
        [&] { return read(file.size(), threads, [&](uint64_t offset) { return file.source(offset); }); });
}

}  // namespace bavt
