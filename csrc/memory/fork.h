// What a forked child must know: a child has the memory of its parent, but of its threads only the one that forked. A
// mutex that another thread held at that moment would stay locked for good, over data that is half changed.
//
// So a fork waits until nobody holds a ForkSafeMutex, and both sides go on with all of them free. Forests are locked
// before the memory that their calls take (Rank): a call in progress can end.
#pragma once

#include <pthread.h>

#include <mutex>

namespace bavt {

// Forks between the first process that used this and the running one. A thread started under another number is not here.
inline unsigned& fork_count() {
    static unsigned count = 0;
    return count;
}

class ForkSafeMutex {
   public:
    enum Rank { kForest, kMemory, kRanks };

    explicit ForkSafeMutex(Rank rank) : rank_(rank) {
        static const int handlers = pthread_atfork(&before_fork, &in_parent, &in_child);
        (void)handlers;
        List& list = list_of(rank);
        const std::lock_guard<std::mutex> lock(list.mutex);
        next_ = list.first;
        if (next_ != nullptr) next_->previous_ = this;
        list.first = this;
    }
    ~ForkSafeMutex() {
        List& list = list_of(rank_);
        const std::lock_guard<std::mutex> lock(list.mutex);
        (previous_ != nullptr ? previous_->next_ : list.first) = next_;
        if (next_ != nullptr) next_->previous_ = previous_;
    }
    ForkSafeMutex(const ForkSafeMutex&) = delete;
    ForkSafeMutex& operator=(const ForkSafeMutex&) = delete;

    void lock() { mutex_.lock(); }
    void unlock() { mutex_.unlock(); }

   private:
    struct List {
        std::mutex mutex;  // held while the list changes, and over a fork
        ForkSafeMutex* first = nullptr;
    };

    static List& list_of(Rank rank) {
        static List* const lists = new List[kRanks];  // outlive every mutex, also those of static duration
        return lists[rank];
    }

    static void before_fork() {
        for (int rank = 0; rank < kRanks; ++rank) {
            List& list = list_of(static_cast<Rank>(rank));
            list.mutex.lock();
            for (ForkSafeMutex* each = list.first; each != nullptr; each = each->next_) each->mutex_.lock();
        }
    }
    static void in_parent() {
        for (int rank = kRanks; rank-- > 0;) {
            List& list = list_of(static_cast<Rank>(rank));
            for (ForkSafeMutex* each = list.first; each != nullptr; each = each->next_) each->mutex_.unlock();
            list.mutex.unlock();
        }
    }
    static void in_child() {
        ++fork_count();
        in_parent();
    }

    Rank rank_;
    std::mutex mutex_;
    ForkSafeMutex* previous_ = nullptr;
    ForkSafeMutex* next_ = nullptr;
};

}  // namespace bavt
