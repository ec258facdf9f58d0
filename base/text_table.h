// A table for people: columns padded to their widest cell, two spaces between.
//
// Width is counted in UTF-8 characters; control characters in a cell are shown
// as '?', so that a hostile file name cannot steer the terminal.
#pragma once

#include <string>
#include <vector>

namespace tidepool {

class TextTable {
 public:
  enum class Align { left, right };
  struct Column {
    std::string title;
    Align align = Align::left;
  };

  explicit TextTable(std::vector<Column> columns) : columns_(std::move(columns)) {}
  void add(std::vector<std::string> cells);  // as many as there are columns
  bool empty() const { return rows_.empty(); }
  // Every line ends in a newline and has no trailing blanks. With no title set
  // in any column there is no title line.
  std::string render() const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// The text with control characters replaced by '?'.
std::string printable(std::string text);

}  // namespace tidepool
