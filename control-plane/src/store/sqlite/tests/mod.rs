mod files;
mod kill;
