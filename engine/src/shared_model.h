// One copy of a model in a process, for all contexts that evaluate it. Part of evaluator.h.
#pragma once
#include <cstring>
#include <mutex>
#include <vector>

#include "pair_splines.h"

namespace mm {

template <class T> class SharedModel {
 public:
  // The model of a form; contexts that live at once and have equal forms share it.
  static std::shared_ptr<SharedModel> of(const Form& form) {
    // Never destroyed: threads may outlive static objects.
    static auto* lock = new std::mutex;
    static auto* known = new std::vector<std::weak_ptr<SharedModel>>;
    std::lock_guard<std::mutex> guard(*lock);
    std::erase_if(*known, [](const auto& one) { return one.expired(); });
    for (const std::weak_ptr<SharedModel>& one : *known) {
      const std::shared_ptr<SharedModel> found = one.lock();
      if (found && found->bytes_ == form.bytes() &&
          std::memcmp(found->copy_.get(), form.data(), size_t(form.bytes())) == 0)
        return found;
    }
    const std::shared_ptr<SharedModel> made(new SharedModel(form));
    known->push_back(made);
    return made;
  }

  const Model<T>& model() const { return model_; }
  PairSplines<T>& pair_splines() { return pair_splines_; }

 private:
  explicit SharedModel(const Form& form)
      : bytes_(form.bytes()), copy_(copied(form)), model_(Form(copy_.get(), bytes_)),
        pair_splines_(model_) {}

  static std::shared_ptr<char[]> copied(const Form& form) {
    const auto copy = aligned_memory<char>(form.bytes());
    std::memcpy(copy.get(), form.data(), size_t(form.bytes()));
    return copy;
  }

  int64_t bytes_;
  std::shared_ptr<char[]> copy_;  // the model points into it
  Model<T> model_;
  PairSplines<T> pair_splines_;
};

}  // namespace mm
