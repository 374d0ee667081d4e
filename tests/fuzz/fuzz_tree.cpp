// libFuzzer target: the bytes of a tree's snapshot.
#include <sys/mman.h>
#include <unistd.h>

#include "target.h"
#include "use_tree.h"

namespace {

using bavt::Tree;

// The same bytes as a file. Returns null where it is refused.
std::unique_ptr<Tree> load_file(const uint8_t* data, size_t size) {
    static const int descriptor = memfd_create("snapshot", MFD_CLOEXEC);
    fuzz::require(ftruncate(descriptor, static_cast<off_t>(size)) == 0, "the file takes its size");
    fuzz::require(pwrite(descriptor, data, size, 0) == static_cast<ssize_t>(size), "the file is written");
    try {
        return Tree::load("/proc/self/fd/" + std::to_string(descriptor));
    } catch (const bavt::SnapshotError&) {
        return nullptr;
    }
}

std::unique_ptr<Tree> load_bytes(const uint8_t* data, size_t size) {
    try {
        return Tree::from_bytes(reinterpret_cast<const char*>(data), size);
    } catch (const bavt::SnapshotError&) {
        return nullptr;
    }
}

}  // namespace

// Anything but a tree or a SnapshotError ends the run.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    forge::Draws draws = fuzz::draws_of(data, size);
    const std::unique_ptr<Tree> tree = load_bytes(data, size);
    if (draws.below(16) == 0) {
        const std::unique_ptr<Tree> other = load_file(data, size);
        fuzz::require((tree == nullptr) == (other == nullptr), "a file is taken where its bytes are");
        if (tree) fuzz::require(tree->to_bytes() == other->to_bytes(), "a file holds what its bytes hold");
    }
    fuzz::count(tree != nullptr);
    if (tree) fuzz::use(*tree, draws);
    return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
    return fuzz::mutate(data, size, max_size, seed, forge::kSmallestTree, forge::repair_tree);
}
