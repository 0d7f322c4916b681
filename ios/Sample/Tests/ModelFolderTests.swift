// Where models are found, and where they go.

import XCTest

@testable import SampleLogic

final class ModelFolderTests: XCTestCase {
    func testModelsOfBothFoldersAreFound() throws {
        let folder = try ModelFolder(below: temporaryFolder(self))
        try Data().write(to: folder.downloads.appendingPathComponent("b.hotset"))
        try Data().write(to: folder.downloads.appendingPathComponent("c.hotset.part"))
        try Data().write(to: folder.documents.appendingPathComponent("a.hotset"))
        try Data().write(to: folder.documents.appendingPathComponent("notes.txt"))
        XCTAssertEqual(try folder.models().map(\.lastPathComponent), ["a.hotset", "b.hotset"])
    }

    func testOnlyBundlesAreDownloaded() throws {
        let folder = try ModelFolder(below: temporaryFolder(self))
        let rows: [(String, String?)] = [
            ("https://example.com/models/olmoe.hotset", "olmoe.hotset"),
            ("https://example.com/olmoe.hotset?download=true", "olmoe.hotset"),
            ("http://example.com/olmoe.hotset", nil),
            ("https://example.com/olmoe.zip", nil),
            ("https://example.com/.hotset", nil),
            ("https://example.com/", nil),
        ]
        for (address, name) in rows {
            let destination = try folder.destination(of: XCTUnwrap(URL(string: address)))
            XCTAssertEqual(destination, name.map { folder.downloads.appendingPathComponent($0) }, address)
        }
    }

    func testFiguresAreReadable() {
        XCTAssertEqual([0, 999, 1000, 9_949, 9_960, 14_696_448, 1_500_000_000].map { Figures.bytes(Int64($0)) }, [
            "0 B", "999 B", "1.0 kB", "9.9 kB", "10 kB", "15 MB", "1.5 GB",
        ])
        XCTAssertEqual([nil, 7.25, 1749.4].map { Figures.rate($0) }, ["–", "7.2 tokens/s", "1749 tokens/s"])
        XCTAssertEqual([nil, 0.874].map { Figures.share($0) }, ["–", "87 %"])
    }
}

/// A folder that is removed after the test.
func temporaryFolder(_ test: XCTestCase) throws -> URL {
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    test.addTeardownBlock { try FileManager.default.removeItem(at: folder) }
    return folder
}
