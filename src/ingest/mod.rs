//! From a dataset's MOS table and image folder to the `images` table.
