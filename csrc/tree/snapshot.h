// Where snapshots are written to and read from. Bytes go from the columns of a tree to their place in one pass, and are
// added to a checksum on the way, while they are in the cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <system_error>

#include "memory/checksum.h"
#include "tree/types.h"

namespace bavt {

// A file that cannot be read or written.
struct FileError : std::system_error {
    FileError(int error, const std::string& file_path)
        : std::system_error(error, std::generic_category(), file_path), path(file_path) {}
    std::string path;
};

inline void require_snapshot(bool holds, const char* what) {
    if (!holds) throw SnapshotError(std::string("snapshot: ") + what + "; save it again");
}

void require_version(uint32_t found, uint32_t expected);

// Runs `load`. What is out of memory there is so because of the sizes that the snapshot states.
template <typename Load>
auto within_memory(Load load) {
    try {
        return load();
    } catch (const std::bad_alloc&) {
        throw SnapshotError(
            "snapshot: there is not enough memory or address space for it (a tree reserves about 40 bytes for every "
            "node of its max_nodes); save it with a smaller max_nodes, or load it where there is more");
    }
}

// Takes bytes, one after the other.
class Sink {
   public:
    virtual ~Sink() = default;
    virtual void put(const char* data, size_t size, Checksum& sum) = 0;
    virtual void finish() {}
};

class MemorySink : public Sink {
   public:
    explicit MemorySink(char* out) : out_(out) {}
    void put(const char* data, size_t size, Checksum& sum) override {
        sum.copy(out_, data, size);
        out_ += size;
    }

   private:
    char* out_;
};

// Gives bytes, one after the other. Callers ask for no more than there are by the sizes they checked.
class Source {
   public:
    virtual ~Source() = default;
    virtual void get(char* out, size_t size, Checksum& sum) = 0;
};

class MemorySource : public Source {
   public:
    explicit MemorySource(const char* data) : data_(data) {}
    void get(char* out, size_t size, Checksum& sum) override {
        sum.copy(out, data_, size);
        data_ += size;
    }

   private:
    const char* data_;
};

// A file that appears under its path when it is whole. Until `commit` it has another name in the same folder, and goes
// away if there is none. All throw FileError.
class AtomicFile {
   public:
    explicit AtomicFile(const std::string& path);
    ~AtomicFile();
    AtomicFile(const AtomicFile&) = delete;
    AtomicFile& operator=(const AtomicFile&) = delete;

    // Several sinks may write different parts at once.
    std::unique_ptr<Sink> sink(uint64_t offset) const;
    void commit();

   private:
    std::string path_, folder_, temporary_;
    int descriptor_ = -1;
    bool committed_ = false;
};

// A regular file. Throws FileError, or SnapshotError for what is no file or shrinks while it is read.
class InputFile {
   public:
    explicit InputFile(const std::string& path);
    ~InputFile();
    InputFile(const InputFile&) = delete;
    InputFile& operator=(const InputFile&) = delete;

    uint64_t size() const { return size_; }
    std::unique_ptr<Source> source(uint64_t offset) const;

   private:
    std::string path_;
    int descriptor_ = -1;
    uint64_t size_ = 0;
};

}  // namespace bavt
