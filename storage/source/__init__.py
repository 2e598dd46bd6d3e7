"""What a hospital gave: files, headers, series and their pixels."""
