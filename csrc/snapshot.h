// Reading and writing of snapshot files: whole or not at all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace bavt {

using Bytes = std::pair<const char*, size_t>;

// A 64-bit checksum against damage (not against forgery), at several bytes a cycle.
uint64_t checksum(const std::vector<Bytes>& sections);

// Writes to a temporary file beside `path`, flushes it to the disk and renames it. Throws std::system_error.
void write_atomically(const std::string& path, const std::vector<Bytes>& sections);

// Throws std::system_error, or SnapshotError for more than `limit` bytes.
std::string read_whole(const std::string& path, size_t limit);

}  // namespace bavt
