"""Problems and answers that were written elsewhere, read into blocks and masks."""
