#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>

#include "tree/snapshot.h"

namespace bavt {
namespace {

constexpr size_t kStage = size_t{256} << 10;  // what is copied and summed between two system calls: second-level cache
constexpr size_t kDirect = size_t{64} << 10;  // reads from this size on go to their place without a stop

// Gathers small pieces, so that a forest of small trees does not take a system call for each of their columns.
class FileSink : public Sink {
   public:
    FileSink(int descriptor, const std::string& path, uint64_t offset)
        : descriptor_(descriptor), path_(path), offset_(offset), stage_(new char[kStage]) {}

    void put(const char* data, size_t size, Checksum& sum) override {
        while (size > 0) {
            const size_t taken = std::min(size, kStage - filled_);
            sum.copy(stage_.get() + filled_, data, taken);
            filled_ += taken;
            data += taken;
            size -= taken;
            if (filled_ == kStage) finish();
        }
    }

    void finish() override {
        const char* data = stage_.get();
        while (filled_ > 0) {
            const ssize_t written = pwrite(descriptor_, data, filled_, static_cast<off_t>(offset_));
            if (written < 0 && errno == EINTR) continue;
            if (written < 0) throw FileError(errno, path_);
            data += written;
            offset_ += static_cast<uint64_t>(written);
            filled_ -= static_cast<size_t>(written);
        }
    }

   private:
    int descriptor_;
    const std::string& path_;
    uint64_t offset_;
    std::unique_ptr<char[]> stage_;
    size_t filled_ = 0;
};

class FileSource : public Source {
   public:
    FileSource(int descriptor, const std::string& path, uint64_t offset)
        : descriptor_(descriptor), path_(path), offset_(offset), stage_(new char[kStage]) {}

    void get(char* out, size_t size, Checksum& sum) override {
        while (size > 0) {
            if (next_ == filled_ && size >= kDirect) {
                const size_t got = read(out, std::min(size, kStage));
                sum.add(out, got);
                out += got;
                size -= got;
                continue;
            }
            if (next_ == filled_) {
                filled_ = read(stage_.get(), kStage);
                next_ = 0;
            }
            const size_t taken = std::min(size, filled_ - next_);
            sum.copy(out, stage_.get() + next_, taken);
            next_ += taken;
            out += taken;
            size -= taken;
        }
    }

   private:
    size_t read(char* out, size_t size) {
        for (;;) {
            const ssize_t got = pread(descriptor_, out, size, static_cast<off_t>(offset_));
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) throw FileError(errno, path_);
            require_snapshot(got > 0, "truncated while it was read");
            offset_ += static_cast<uint64_t>(got);
            return static_cast<size_t>(got);
        }
    }

    int descriptor_;
    const std::string& path_;
    uint64_t offset_;
    std::unique_ptr<char[]> stage_;
    size_t next_ = 0, filled_ = 0;
};

std::string folder_of(const std::string& path) {
    const size_t slash = path.rfind('/');
    if (slash == std::string::npos) return ".";
    return slash == 0 ? "/" : path.substr(0, slash);
}

// A name that no other thread or process comes upon; O_EXCL settles it where one does.
std::string temporary_in(const std::string& folder) {
    static std::atomic<uint64_t> made{0};
    const auto now = static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
    const uint64_t number = mix64(now ^ mix64(static_cast<uint64_t>(getpid()) << 32 ^ ++made));
    char name[40];
    std::snprintf(name, sizeof name, "/.bavt-%016llx.tmp", static_cast<unsigned long long>(number));
    return folder + name;
}

// A rename is on the disk once its folder is. Some file systems, and folders that may be written but not read, do not
// let folders be synced: the file itself is safe there, old or new.
void sync_folder(const std::string& folder, const std::string& path) {
    const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return;
    const int error = fsync(descriptor) == 0 ? 0 : errno;
    close(descriptor);
    if (error != 0 && error != EINVAL && error != ENOTSUP) throw FileError(error, path);
}

}  // namespace

void require_version(uint32_t found, uint32_t expected) {
    if (found == expected) return;
    throw SnapshotError("snapshot: expected version " + std::to_string(expected) + ", got " + std::to_string(found) +
                        "; load it with the version of bavt_fast that saved it");
}

// The mode is the usual one: the kernel takes the umask off, which a process cannot read without changing it.
AtomicFile::AtomicFile(const std::string& path) : path_(path), folder_(folder_of(path)) {
    struct stat info;
    // The rename would put a file in the place of a device or a pipe.
    if (stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
        throw FileError(S_ISDIR(info.st_mode) ? EISDIR : EINVAL, path);
    }
    do {
        temporary_ = temporary_in(folder_);
        descriptor_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (descriptor_ < 0 && (errno == EEXIST || errno == EINTR));
    if (descriptor_ < 0) throw FileError(errno, path);
}

AtomicFile::~AtomicFile() {
    close(descriptor_);
    if (!committed_) unlink(temporary_.c_str());
}

std::unique_ptr<Sink> AtomicFile::sink(uint64_t offset) const {
    return std::make_unique<FileSink>(descriptor_, path_, offset);
}

void AtomicFile::commit() {
    if (fsync(descriptor_) != 0) throw FileError(errno, path_);
    if (rename(temporary_.c_str(), path_.c_str()) != 0) throw FileError(errno, path_);
    committed_ = true;
    sync_folder(folder_, path_);
}

// Without O_NONBLOCK a pipe that nobody writes to would never open.
InputFile::InputFile(const std::string& path) : path_(path) {
    descriptor_ = open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (descriptor_ < 0) throw FileError(errno, path);
    struct stat info;
    const int error = fstat(descriptor_, &info) != 0 ? errno : S_ISDIR(info.st_mode) ? EISDIR : 0;
    if (error != 0 || !S_ISREG(info.st_mode)) {
        close(descriptor_);
        if (error != 0) throw FileError(error, path);
        throw SnapshotError("snapshot: expected a regular file, got a device or a pipe; save to a file");
    }
    size_ = static_cast<uint64_t>(info.st_size);
}

InputFile::~InputFile() { close(descriptor_); }

std::unique_ptr<Source> InputFile::source(uint64_t offset) const {
    return std::make_unique<FileSource>(descriptor_, path_, offset);
}

}  // namespace bavt
