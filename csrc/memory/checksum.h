// A 64-bit checksum of a stream of bytes, against damage (not against forgery), at the speed of memory.
//
//     the stream, padded with zeros, is cut into stripes of eight words; for word w of lane j in stripe s
//         x           = w ^ (key_j + s * kStep)
//         sum_j      += w
//         product_j  += (x mod 2^32) * (x div 2^32)                      (mod 2^64)
//     checksum = mix(... mix(mix(length ^ sum_0) ^ product_0) ... ^ product_7)
//
// One altered word always changes its lane's sum; where words stand changes the products. The products of two 32-bit
// halves are what SSE2 can do, two in one instruction.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "memory/mix.h"

namespace bavt {

class Checksum {
   public:
    void add(const char* data, size_t size) {
        length_ += size;
        if (pending_size_ > 0) {
            const size_t taken = size < kStripe - pending_size_ ? size : kStripe - pending_size_;
            std::memcpy(pending_ + pending_size_, data, taken);
            pending_size_ += taken;
            data += taken;
            size -= taken;
            if (pending_size_ < kStripe) return;
            add_stripes(pending_, 1);
        }
        const size_t stripes = size / kStripe;
        add_stripes(data, stripes);
        pending_size_ = size - stripes * kStripe;
        std::memcpy(pending_, data + stripes * kStripe, pending_size_);
    }

    // Copies and adds, in pieces that stay in the first-level cache in between.
    void copy(char* out, const char* data, size_t size) {
        while (size > 0) {
            const size_t piece = size < kPiece ? size : kPiece;
            std::memcpy(out, data, piece);
            add(out, piece);
            out += piece;
            data += piece;
            size -= piece;
        }
    }

    uint64_t value() const {
        Checksum padded = *this;
        if (pending_size_ > 0) {
            std::memset(padded.pending_ + pending_size_, 0, kStripe - pending_size_);
            padded.add_stripes(padded.pending_, 1);
        }
        uint64_t value = length_;
        for (size_t lane = 0; lane < kLanes; ++lane) {
            value = mix64(value ^ padded.sums_[lane]);
            value = mix64(value ^ padded.products_[lane]);
        }
        return value;
    }

   private:
    static constexpr size_t kLanes = 8;
    static constexpr size_t kStripe = kLanes * sizeof(uint64_t);
    static constexpr size_t kPiece = 8192;
    static constexpr uint64_t kStep = 0x9E3779B97F4A7C15ull;

#if defined(__SSE2__)
    void add_stripes(const char* data, size_t stripes) {
        __m128i sums[4], products[4], keys[4];
        const auto at = [](uint64_t* lanes, int i) { return reinterpret_cast<__m128i*>(lanes) + i; };
        for (int i = 0; i < 4; ++i) {
            sums[i] = _mm_load_si128(at(sums_, i));
            products[i] = _mm_load_si128(at(products_, i));
            keys[i] = _mm_load_si128(at(keys_, i));
        }
        const __m128i step = _mm_set1_epi64x(static_cast<int64_t>(kStep));
        for (; stripes > 0; --stripes, data += kStripe) {
            for (int i = 0; i < 4; ++i) {
                const __m128i word = _mm_loadu_si128(reinterpret_cast<const __m128i*>(data) + i);
                const __m128i x = _mm_xor_si128(word, keys[i]);
                sums[i] = _mm_add_epi64(sums[i], word);
                products[i] = _mm_add_epi64(products[i], _mm_mul_epu32(x, _mm_srli_epi64(x, 32)));
                keys[i] = _mm_add_epi64(keys[i], step);
            }
        }
        for (int i = 0; i < 4; ++i) {
            _mm_store_si128(at(sums_, i), sums[i]);
            _mm_store_si128(at(products_, i), products[i]);
            _mm_store_si128(at(keys_, i), keys[i]);
        }
    }
#else
    void add_stripes(const char* data, size_t stripes) {
        for (; stripes > 0; --stripes, data += kStripe) {
            for (size_t lane = 0; lane < kLanes; ++lane) {
                uint64_t word;
                std::memcpy(&word, data + lane * sizeof word, sizeof word);
                const uint64_t x = word ^ keys_[lane];
                sums_[lane] += word;
                products_[lane] += (x & 0xFFFFFFFFu) * (x >> 32);
                keys_[lane] += kStep;
            }
        }
    }
#endif

    alignas(16) uint64_t sums_[kLanes] = {};
    alignas(16) uint64_t products_[kLanes] = {};
    alignas(16) uint64_t keys_[kLanes] = {// digits of pi
                                          0x243F6A8885A308D3ull, 0x13198A2E03707344ull, 0xA4093822299F31D0ull,
                                          0x082EFA98EC4E6C89ull, 0x452821E638D01377ull, 0xBE5466CF34E90C6Cull,
                                          0xC0AC29B7C97C50DDull, 0x3F84D5B5B5470917ull};
    uint64_t length_ = 0;
    size_t pending_size_ = 0;
    char pending_[kStripe];
};

}  // namespace bavt
